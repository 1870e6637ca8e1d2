"""`subscape sweep`: push one subnetwork of a measured run, or two together, at δ of your choice."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from subscape._checks import require
from subscape._io import check_free, json_object, write_json
from subscape.cli.next_step import then
from subscape.cli.run_folder import Run, check_index, open_run
from subscape.data import Samples, n_samples
from subscape.measures import Measures
from subscape.measures.response import joint_response, response
from subscape.report.sweep_figure import draw_grid, draw_sweep

PICTURES = (".png", ".svg", ".pdf")
FORMAT = "subscape-sweep/1"
"""Of the file of numbers, by which an earlier sweep is told."""


@dataclass(frozen=True)
class SweepRun:
    """Push one subnetwork of a measured run, or two together, and see how far outputs move.

    Relevant rows are its top samples; they are compared with rows drawn at random, and with a random
    direction of the same norm and rank. With --beside: a grid over both δ.

    Example: subscape sweep runs/attention --subnetwork 17 --deltas -1 -0.5 0 0.5 1 --out sweep.png
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run folder that was measured; see subscape measure."""
    subnetwork: int = 0
    """Which one."""
    beside: int | None = None
    """A second one, for a grid."""
    deltas: tuple[float, ...] = (-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0)
    """How far to move."""
    tensors: tuple[str, ...] = ("*",)
    """Globs over the run's tensors; the others are not moved."""
    out: Path | None = None
    """Picture to draw (.png, .svg, .pdf); its numbers go into a .json of the same name."""
    overwrite: bool = False
    """Replace picture and numbers of an earlier sweep."""
    model: str | None = None
    """The model, if the run does not name it."""
    data: str | None = None
    """The data that were measured, if the run does not name them."""
    device: str = "cpu"
    """Where the model runs: cpu, cuda, cuda:1, mps."""
    trust: bool = False
    """Call the functions that the run names as its model and data. They can run any code."""
    measures: Path | None = None
    """Folder of the measures; by default the folder 'measures' in the run folder."""
    json: bool = False
    """Print as JSON."""


def run(settings: SweepRun) -> dict[str, Any]:
    """Carry out the command."""
    opened = open_run(
        settings.run, settings.model, settings.data, trust=settings.trust, device=settings.device
    )
    one, two, out = settings.subnetwork, settings.beside, settings.out
    for index in (one,) if two is None else (one, two):
        check_index(opened, index)
    require(one != two, "beside", "another subnetwork", f"{two} twice")
    finite = settings.deltas and all(map(math.isfinite, settings.deltas))
    require(bool(finite), "deltas", "finite numbers", f"{list(settings.deltas)}")
    if out is not None:
        expected = f"a picture ({', '.join(PICTURES)}) in a folder that exists"
        possible = out.suffix in PICTURES and out.parent.is_dir()
        require(possible, "out", expected, repr(str(out)))
        for path in (out, out.with_suffix(".json")):
            check_free(path, overwrite=settings.overwrite, owned=_is_sweep, name="out")
    measures = opened.load_measures(settings.measures)
    target, data = opened.target(), _measured_data(opened, measures)
    what = (opened.decomposition, measures, target, data)
    how = (settings.deltas, settings.tensors)
    found = asdict(
        response(*what, one, *how) if two is None else joint_response(*what, (one, two), *how)
    )
    if out is not None:
        draw = draw_sweep if two is None else draw_grid
        draw(out, found)
        write_json(out.with_suffix(".json"), {"format": FORMAT, "picture": out.name, **found})
    further = f"edit {opened.named} --set {one}={max(settings.deltas, key=abs):g}"
    print(json.dumps(found) if settings.json else f"{_text(found)}\n{then(further)}")
    return found


def _is_sweep(path: Path) -> bool:
    """Whether a sweep wrote this picture, or these numbers."""
    numbers = json_object(path.with_suffix(".json"))
    names = (numbers.get("picture"), path.with_suffix(".json").name)
    return numbers.get("format") == FORMAT and path.name in names


def _measured_data(opened: Run, measures: Measures) -> Samples:
    """The data that were measured, which the samples kept with the measures are compared with."""
    kept = measures.samples
    ids = kept.get("input_ids")
    data = opened.samples(None if ids is None else ids.shape[1])
    by_name = {"inputs": data} if isinstance(data, torch.Tensor) else data
    index = kept["index"]
    same = index.numel() == 0 or int(index.max()) < n_samples(data)
    for name in by_name.keys() & kept.keys() - {"index", "labels"} if same else ():
        same = same and torch.equal(by_name[name][index], kept[name])
    require(
        same,
        "data",
        "the data that were measured",
        f"others in {opened.data}",
        "Give them with --data, or measure these.",
    )
    return data


def _text(found: dict[str, Any]) -> str:
    def shown(value: float | None) -> str:
        return f"{'not finite':>12}" if value is None else f"{value:>12.4g}"

    if "beside" in found:
        head = (
            f"mean change of outputs ({found['unit']}); down: δ of {found['subnetwork']}, "
            f"across: δ of {found['beside']}"
        )
        lines = [head, " " * 10 + "".join(f"{d:>12g}" for d in found["delta"])]
        for delta, line in zip(found["delta"], found["change"], strict=True):
            lines.append(f"{delta:>10g}" + "".join(map(shown, line)))
        return "\n".join(lines)
    columns = ("relevant", "drawn_at_random", "random_direction")
    lines = [
        f"mean change of outputs ({found['unit']})",
        f"{'δ':>10} {'top samples':>12} {'random rows':>12} {'random dir.':>12}",
    ]
    for i, delta in enumerate(found["delta"]):
        lines.append(f"{delta:>10g} " + " ".join(shown(found[c][i]) for c in columns))
    return "\n".join(lines)
