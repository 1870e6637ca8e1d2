"""`subscape consolidate`: fewer subnetworks out of a run, each one of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from subscape._checks import require
from subscape._io import check_free, write_text
from subscape.cli import toml
from subscape.cli.loading import is_code, refuse_code
from subscape.cli.run_folder import CONFIG, open_run
from subscape.subnetworks.consolidation import summary
from subscape.subnetworks.decomposition import Decomposition
from subscape.training.refit import refit


@dataclass(frozen=True)
class ConsolidateRun:
    """Merge duplicate subnetworks of a run, drop those that explain nothing, and refit the others.

    Writes a new run folder; the old one stays as it is. Model and data are those of the run unless given.

    Example: subscape consolidate runs/attention --out runs/attention-fewer
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run folder, or the folder of a saved decomposition."""
    out: Path
    """New run folder."""
    model: str | None = None
    """The model, if the run does not name it."""
    data: str | None = None
    """Data to train on; by default the run's."""
    heldout: str | None = None
    """Data not trained on; by default the run's, or a tenth of the data."""
    window: int | None = None
    """Tokens in a window of text; by default those of the run."""
    steps: int = 500
    """Steps of training after that; 0 for none."""
    device: str = "cpu"
    """Where the model runs: cpu, cuda, cuda:1, mps."""
    trust: bool = False
    """Call the functions that the run names as its model and data. They can run any code."""
    json: bool = False
    """Print the result as JSON."""


def run(settings: ConsolidateRun) -> Decomposition:
    """Carry out the command."""
    check_free(settings.out, folder=True, name="out", expected="a new folder")
    require(settings.steps >= 0, "steps", "0 or more", settings.steps)
    table = toml.read(settings.run / CONFIG) if (settings.run / CONFIG).is_file() else {}
    opened = open_run(
        settings.run, settings.model, settings.data, trust=settings.trust, device=settings.device
    )
    names = {"data": settings.data or table.get("data"), "heldout": settings.heldout}
    if settings.data is None and settings.heldout is None:
        names["heldout"] = table.get("heldout")
    for argument, name in names.items():
        if is_code(name) and not settings.trust and not getattr(settings, argument):
            refuse_code(argument, name, settings.run / CONFIG, f"--{argument} {name}")
    require(names["data"] is not None, "data", "data", "none in the run", "Give them with --data.")
    target, window = opened.target(), settings.window or opened.window
    data, heldout = (None if name is None else opened.load(name, window) for name in names.values())
    smaller = opened.decomposition.consolidated(target, data)
    result = refit(
        smaller, target, data, heldout=heldout, steps=settings.steps, progress=not settings.json
    )
    result.save_pretrained(settings.out / "final", overwrite=False)
    if table:
        write_text(settings.out / CONFIG, toml.dumps(table | names | {"model": opened.model}))
    record = result.metrics["consolidation"]
    if settings.json:
        print(json.dumps({"out": str(settings.out), "metrics": result.metrics}))
    else:
        print(f"\n{summary(record)}")
        print(f"FVU {result.metrics['fvu']:.3f} at L0 {result.metrics['l0']:.2f}")
        print(f"\nSaved in {settings.out / 'final'}; next\n  subscape measure {settings.out}")
    return result
