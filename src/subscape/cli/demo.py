"""`subscape demo`: a toy with known circuits and a small image model, decomposed, measured, reported."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from subscape._checks import require
from subscape._lock import locked
from subscape.cli.next_step import then
from subscape.demo import run_digits, run_toy
from subscape.demo.folder import check_out


@dataclass(frozen=True)
class DemoRun:
    """Decompose a toy whose circuits are known and a small classifier of handwritten digits.

    Both are trained on the spot, without a download, in about a minute. Each leaves a run folder with a
    report that opens in any browser.
    """

    out: Path = Path("runs/demo")
    """Folder for both runs; those of an earlier demo are replaced."""
    seed: int = 0
    """Draws the targets, their data and the decompositions."""
    json: bool = False
    """Print the result as JSON."""


def run(settings: DemoRun) -> None:
    """Carry out the command."""
    in_range = 0 <= settings.seed < 2**31
    require(in_range, "seed", "a whole number from 0 to 2³¹ − 1", settings.seed)
    torch.set_num_threads(1)  # more threads only wait for each other on tensors this small
    show = not settings.json
    folders = [settings.out / name for name in ("toy", "digits")]
    with locked(settings.out):
        for folder in folders:
            check_out(folder)
        toy = run_toy(folders[0], settings.seed, progress=show)
        if show:
            print(toy.text())
        digits = run_digits(folders[1], settings.seed, progress=show)
    if show:
        print(digits.text())
        print("\nOpen both reports in a browser; then decompose a model of your own.")
        there = (folders[1] / "run.toml").is_file()
        live = [f"explore {folders[1]} --trust --open"] if there else []
        print(then(*live, "decompose MODEL --data FILE"))
    else:
        print(json.dumps({"toy": toy.figures, "digits": digits.figures}))
