"""`subscape sweep`: push one subnetwork of a measured run, or two together, at δ of your choice."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from subscape._checks import problem
from subscape._io import check_free, json_object, write_json
from subscape.cli.run_folder import Run, check_index, open_run
from subscape.data import Samples, n_samples
from subscape.divergences import DIVERGENCES, Divergence
from subscape.measures import Measures, RowSet, grid, outputs_at, random_like, sweep
from subscape.measures.selectivity import mean_of
from subscape.report.sweep_figure import draw_grid, draw_sweep
from subscape.rows import generator_of
from subscape.subnetworks.editing import displacement

N_OTHERS = 64
PICTURES = (".png", ".svg", ".pdf")
FORMAT = "subscape-sweep/1"
"""Of the file of numbers, by which an earlier sweep is told."""


@dataclass(frozen=True)
class SweepRun:
    """Push one subnetwork of a measured run, or two together, and see how far outputs move.

    Relevant rows are its top samples; beside them rows drawn at random, and a random direction of the
    same norm and rank. With --beside a grid over both δ.

    Example: subscape sweep runs/attention --subnetwork 17 --deltas -1 -0.5 0 0.5 1 --out sweep.png
    """

    run: Annotated[Path, tyro.conf.Positional]
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
    trust: bool = False
    """Call the functions that the run names as its model and data. They may do anything."""
    measures: Path | None = None
    """Folder of the measures; by default the folder 'measures' in the run folder."""
    json: bool = False
    """Print as JSON."""


def run(settings: SweepRun) -> dict[str, Any]:
    """Carry out the command.

    Args:
        settings: what the command line said.

    Returns:
        The numbers.

    Raises:
        ValueError: if an argument is wrong.
    """
    opened = open_run(settings.run, settings.model, settings.data, trust=settings.trust)
    for index in (settings.subnetwork, settings.beside):
        if index is not None:
            check_index(opened, index)
    if settings.beside == settings.subnetwork:
        raise ValueError(problem("beside", "another subnetwork", f"{settings.beside} twice"))
    out = settings.out
    if out is not None and not (out.suffix in PICTURES and out.parent.is_dir()):
        expected = f"a picture ({', '.join(PICTURES)}) in a folder that exists"
        raise ValueError(problem("out", expected, repr(str(out))))
    if out is not None:
        for path in (out, out.with_suffix(".json")):
            check_free(path, overwrite=settings.overwrite, owned=_is_sweep, name="out")
    bad = [d for d in settings.deltas if not math.isfinite(d)]
    if bad or not settings.deltas:
        raise ValueError(problem("deltas", "finite numbers", f"{list(settings.deltas)}"))
    measures = opened.load_measures(settings.measures)
    divergence = _divergence(measures)
    target = opened.target()
    data = _measured_data(opened, measures)
    directions = [
        _restricted(opened, k, settings.tensors)
        for k in (settings.subnetwork, settings.beside)
        if k is not None
    ]
    rows = _top_rows(measures, settings.subnetwork)
    if settings.beside is not None:
        rows = rows.joined(_top_rows(measures, settings.beside))
        found = _grid(target, data, rows, directions, settings, divergence)
    else:
        control = random_like(opened.decomposition.directions).select(settings.subnetwork).dense()
        control = {n: v for n, v in control.items() if n in directions[0]}
        found = _sweep(target, data, rows, directions[0], control, settings, divergence)
    found["unit"] = measures.unit_of_changes
    if settings.out is not None:
        draw = draw_sweep if settings.beside is None else draw_grid
        draw(settings.out, found)
        numbers = {"format": FORMAT, "picture": settings.out.name, **found}
        write_json(settings.out.with_suffix(".json"), numbers)
    print(json.dumps(found) if settings.json else _text(found))
    return found


def _is_sweep(path: Path) -> bool:
    """Whether a sweep wrote this picture, or these numbers."""
    numbers = json_object(path.with_suffix(".json"))
    names = (numbers.get("picture"), path.with_suffix(".json").name)
    return numbers.get("format") == FORMAT and path.name in names


def _divergence(measures: Measures) -> Divergence:
    """What the measures count changes in; the authors' variant is no distance, so theirs is mse."""
    name = measures.divergence
    if name not in DIVERGENCES:
        raise ValueError(
            problem(
                "run",
                f"measures in one of the divergences {list(DIVERGENCES)}",
                f"a function of your own, {name}",
                "Use subscape.measures.sweep in Python.",
            )
        )
    return DIVERGENCES[name].of_changes


def _restricted(opened: Any, index: int, tensors: tuple[str, ...]) -> dict[str, torch.Tensor]:
    return displacement(opened.decomposition.directions, {index: 1.0}, tensors)


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
    if not same:
        raise ValueError(
            problem(
                "data",
                "the data that were measured",
                f"others in {opened.data}",
                "Give them with --data, or measure these.",
            )
        )
    return data


def _top_rows(measures: Measures, index: int) -> RowSet:
    top = measures[index].top_samples
    if not top:
        raise ValueError(
            problem(
                "subnetwork", "one with top samples", f"{index}, which has no impact on any row"
            )
        )
    samples = torch.tensor([row.sample for row in top])
    position = [row.position for row in top]
    return RowSet(samples, None if position[0] is None else torch.tensor(position))


def _sweep(
    target: Any,
    data: Any,
    rows: RowSet,
    direction: Any,
    control: Any,
    settings: SweepRun,
    divergence: Divergence,
) -> dict[str, Any]:
    generator = generator_of(0, 13)
    samples = torch.randperm(n_samples(data), generator=generator)[:N_OTHERS]
    position = None
    if rows.position is not None:
        length = target.outputs(rows.select(slice(0, 1)).inputs(data, target)).shape[1]
        position = torch.randint(0, length, (len(samples),), generator=generator)
    both = rows.joined(RowSet(samples, position))
    relevant = torch.arange(len(both)) < len(rows)
    found = sweep(target, data, both, direction, settings.deltas, divergence).change
    chance = sweep(target, data, rows, control, settings.deltas, divergence).change
    return {
        "subnetwork": settings.subnetwork,
        "delta": list(settings.deltas),
        "relevant": mean_of(found, relevant),
        "drawn_at_random": mean_of(found, ~relevant),
        "random_direction": mean_of(chance, torch.ones(len(rows), dtype=torch.bool)),
    }


def _grid(
    target: Any,
    data: Any,
    rows: RowSet,
    directions: list[dict[str, torch.Tensor]],
    settings: SweepRun,
    divergence: Divergence,
) -> dict[str, Any]:
    base = outputs_at(target, data, rows)
    moved = grid(target, data, rows, directions[0], directions[1], settings.deltas)
    change = [[divergence(cell, base).mean().item() for cell in line] for line in moved]
    return {
        "subnetwork": settings.subnetwork,
        "beside": settings.beside,
        "delta": list(settings.deltas),
        "change": [[v if math.isfinite(v) else None for v in line] for line in change],
    }


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
