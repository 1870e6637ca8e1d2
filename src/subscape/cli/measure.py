"""`subscape measure`: what every subnetwork of a run is for, and what pushing it does."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec
import tyro

from subscape.cli.classes import classes_for
from subscape.cli.names import output_namer, token_namer
from subscape.cli.run_folder import open_run
from subscape.measures import MeasureConfig, Measures
from subscape.measures.kept import check_vocabulary
from subscape.measures.measure import measure


@dataclass(frozen=True)
class MeasureRun:
    """Measure what every subnetwork of a run is for, and what pushing it does.

    One pass over the data gives the impact of every subnetwork and the samples it matters most for; then each
    one is pushed in both directions and compared with a random direction. Model and data are those of the run
    unless given. An interrupted measurement resumes when the same command is given again.

    Example: subscape measure runs/attention --data heldout.txt
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run folder, or the folder of a saved decomposition."""
    model: str | None = None
    """The model, if the run does not name it."""
    data: str | None = None
    """Data to measure on; by default the run's --heldout, or, where it had none, all its --data."""
    window: int | None = None
    """Tokens in a window of text; by default those of the run."""
    device: str = "cpu"
    """Where the model runs: cpu, cuda, cuda:1, mps."""
    trust: bool = False
    """Call the functions that the run names as its model and data. They can run any code."""
    names: Path | None = None
    """Text file with one output name (class) a line."""
    labels: Path | None = None
    """A class (a whole number) per sample: .txt with one a line, .csv or .jsonl with a column or field `label`, or
    arrays. By default the array `labels` of the data, if there is one."""
    out: Path | None = None
    """Where to; by default the folder 'measures' in the run folder."""
    overwrite: bool = False
    """Start over where something else was measured."""
    json: bool = False
    """Print the result as JSON."""
    measuring: tyro.conf.OmitArgPrefixes[MeasureConfig] = field(default_factory=MeasureConfig)
    """How much is measured."""


def run(settings: MeasureRun) -> Measures:
    """Carry out the command."""
    opened = open_run(
        settings.run, settings.model, settings.data, trust=settings.trust, device=settings.device
    )
    data = opened.samples(settings.window)
    target = opened.target()
    check_vocabulary(target, data)
    out = settings.out or opened.measures
    tokens = token_namer(opened.tokenizer())
    found = measure(
        opened.decomposition,
        target,
        data,
        config=settings.measuring,
        labels=classes_for(settings.labels, opened.data or "", data),
        token_names=tokens,
        output_names=output_namer(settings.names, target.model, tokens),
        out=out,
        overwrite=settings.overwrite,
        progress=not settings.json,
    )
    if settings.json:
        print(json.dumps({"out": str(out)} | msgspec.to_builtins(found.record)))
    else:
        print(f"\n{found}\n\nSaved in {out}; look at it with\n")
        more = "" if settings.out is None else f" --measures {settings.out}"
        print(f"  subscape top {settings.run}{more}")
        print(f"  subscape report {settings.run}{more} -o report.html")
    return found
