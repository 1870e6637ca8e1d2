"""`subscape evaluate`: every figure of a run beside its controls."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import tyro
from torch import Tensor

from subscape.cli import toml
from subscape.cli.classes import classes_for
from subscape.cli.loading import is_code, load_labels, refuse_code
from subscape.cli.names import token_namer
from subscape.cli.next_step import then
from subscape.cli.run_folder import CONFIG, Run, open_run
from subscape.data import Samples, take
from subscape.scorecard import Scorecard, ScoreConfig
from subscape.scorecard.record import FOLDER
from subscape.scorecard.score import score
from subscape.training.decompose import set_aside


@dataclass(frozen=True)
class EvaluateRun:
    """Score a run against controls: every number beside what chance and simpler methods reach.

    Takes some minutes of processor time (--minutes). Model and data are those of the run unless given. If
    interrupted, give the same command again to resume.

    Example: subscape evaluate runs/attention --against runs/attention-seed-1
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run folder, or the folder of a saved decomposition."""
    against: tuple[Path, ...] = ()
    """Runs of the same model with other seeds, to say what is stable."""
    model: str | None = None
    """The model, if the run does not name it."""
    data: str | None = None
    """Data to score on; by default the run's --heldout, or, where it had none, those set aside of its --data."""
    fit: str | None = None
    """Data that controls and probes are fitted on; by default the run's --data, or a part of --data."""
    labels: Path | None = None
    """A class (a whole number) per sample of what is scored: .txt with one a line, .csv or .jsonl with a column or
    field `label`, or arrays. By default the array `labels` of the data, if there is one."""
    window: int | None = None
    """Tokens in a window of text; by default those of the run."""
    device: str = "cpu"
    """Where the model runs: cpu, cuda, cuda:1, mps."""
    trust: bool = False
    """Call the functions that the run names as its model and data. They can run any code."""
    out: Path | None = None
    """Where to; by default the folder 'scorecard' in the run folder, which subscape report shows."""
    overwrite: bool = False
    """Start over where there is another scorecard."""
    json: bool = False
    """Print the scorecard as JSON."""
    scoring: tyro.conf.OmitArgPrefixes[ScoreConfig] = field(default_factory=ScoreConfig)
    """How much is looked at."""


def run(settings: EvaluateRun) -> Scorecard:
    """Carry out the command."""
    opened = open_run(
        settings.run, settings.model, settings.data, trust=settings.trust, device=settings.device
    )
    against = {str(path): open_run(path).decomposition for path in settings.against}
    target = opened.target()
    scored, fitted = _data(settings, opened)
    tokens = token_namer(opened.tokenizer())
    out = settings.out or opened.folder / FOLDER
    card = score(
        opened.decomposition,
        target,
        scored.samples,
        fit=None if fitted is None else fitted.samples,
        labels=scored.labels,
        fit_labels=None if fitted is None else fitted.labels,
        against=against,
        token_names=tokens,
        measures=opened.known_measures(),
        config=settings.scoring,
        out=out,
        overwrite=settings.overwrite,
        progress=not settings.json,
    )
    if settings.json:
        print(json.dumps({"out": str(out)} | msgspec.to_builtins(card)))
    else:
        print(f"\n{card}\n\nSaved in {out}")
        if settings.out is None and opened.known_measures() is not None:
            print(then(f"report {settings.run} -o report.html"))
    return card


class Loaded(NamedTuple):
    """Samples, and a class of each if there is one."""

    samples: Samples
    labels: Tensor | None


def _data(settings: EvaluateRun, opened: Run) -> tuple[Loaded, Loaded | None]:
    """What to score on, and what to fit controls on; None for a part of the former."""
    file = settings.run / CONFIG
    table = toml.read(file) if file.is_file() else {}
    trained = table.get("data")

    def load(name: str) -> Loaded:
        return Loaded(opened.load(name, settings.window), load_labels(name))

    samples = opened.samples(settings.window)
    scored = Loaded(samples, classes_for(settings.labels, opened.data or "", samples))
    name = settings.fit or trained
    if name is None or (settings.fit is None and opened.data == name and settings.data):
        return scored, None
    if settings.fit is None and is_code(name) and not settings.trust:
        refuse_code("fit", name, file, f"--fit {name}")
    if settings.fit is None and opened.data == name:
        # What training set aside of its data is scored; the rest was trained on.
        seed = int(opened.decomposition.settings.get("seed", 0))
        held, rest = set_aside(scored.samples, seed)
        return _some(scored, held), _some(scored, rest)
    return scored, load(name)


def _some(loaded: Loaded, index: Tensor) -> Loaded:
    labels = None if loaded.labels is None else loaded.labels[index]
    return Loaded(take(loaded.samples, index), labels)
