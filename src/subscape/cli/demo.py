"""`subscape demo`: decompose a toy whose circuits are known, print and draw what was found."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from subscape.demo import DemoResult, run_demo


@dataclass(frozen=True)
class DemoRun:
    """Train a toy of superposition, decompose it, and compare with the circuits it is known to have.

    Needs no download and less than a minute; leaves a run folder with a picture.
    """

    out: Path = Path("runs/demo")
    """Run folder; replaced if it is there."""
    seed: int = 0
    """Draws the target, its data and the decomposition."""
    json: bool = False
    """Print the result as JSON."""


def run(settings: DemoRun) -> DemoResult:
    """Carry out the command.

    Args:
        settings: what the command line said.

    Returns:
        What was found.
    """
    torch.set_num_threads(1)  # more threads only wait for each other on tensors this small
    result = run_demo(settings.out, settings.seed, progress=not settings.json)
    if settings.json:
        print(json.dumps(result.figures))
    else:
        print(result.text())
    return result
