"""`subscape contrast`: which subnetworks of a run tell two sets of inputs apart."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from subscape._checks import require
from subscape.cli.next_step import then
from subscape.cli.run_folder import open_run
from subscape.measures.contrast import Contrast, contrast


@dataclass(frozen=True)
class ContrastRun:
    """Say which subnetworks of a run tell two sets of inputs apart, by their coefficients.

    Each sample counts once: a sequence by its largest coefficient over positions. Of those listed, a share of
    at most --level is expected to be there by chance.

    Example: subscape contrast runs/attention --a questions.txt --b answers.txt
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run folder, or the folder of a saved decomposition."""
    a: str
    """Inputs: a text, arrays, or package.module:function."""
    b: str
    """Other inputs of the same kind; none may be in both sets."""
    level: float = 0.05
    """Accepted share of false discoveries among those listed (Benjamini and Hochberg)."""
    model: str | None = None
    """The model, if the run does not name it."""
    window: int | None = None
    """Tokens in a window of text; by default those of the run."""
    n: int = 20
    """Lines to print."""
    device: str = "cpu"
    """Where the model runs: cpu, cuda, cuda:1, mps."""
    trust: bool = False
    """Call the function that the run names as its model. It can run any code."""
    json: bool = False
    """Print all of it as JSON."""


def run(settings: ContrastRun) -> Contrast:
    """Carry out the command."""
    require(settings.n >= 1, "n", "at least 1", repr(settings.n))
    opened = open_run(settings.run, settings.model, trust=settings.trust, device=settings.device)
    target = opened.target()
    window = settings.window or opened.window
    a, b = (opened.load(name, window) for name in (settings.a, settings.b))
    result = contrast(opened.decomposition, target, a, b, level=settings.level)
    if settings.json:
        print(json.dumps(asdict(result)))
        return result
    print(result.shown(settings.n))
    if result.told_apart:
        first = result.told_apart[0]
        top = [f"top {settings.run} --subnetwork {first.index}"] if opened.known_measures() else []
        push = 0.5 if first.turn > 0 else -0.5
        print(then(*top, f"edit {opened.named} --set {first.index}={push:g} --prompt TEXT"))
    return result
