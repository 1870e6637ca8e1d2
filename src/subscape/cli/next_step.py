"""What a command says at its end: what to do next."""

from __future__ import annotations

from subscape.cli.run_folder import Run
from subscape.measures import Measures


def then(*commands: str) -> str:
    """Commands to go on with."""
    return "\n".join(["", "Next", *(f"  subscape {command}" for command in commands)])


def edit_of(run: Run, measures: Measures) -> list[str]:
    """The command that pushes the strongest of the subnetworks that can be pushed."""
    best = next((e.index for e in measures.ranked() if e.delta is not None), None)
    return [] if best is None else [f"edit {run.named} --set {best}"]
