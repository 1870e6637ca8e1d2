"""What a command says at its end: what to do next."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from subscape.cli.run_folder import Run
from subscape.measures import Measures


def then(*commands: str) -> str:
    """Commands to go on with, as they can be typed here."""
    # In a clone whose environment is not activated there is no `subscape`.
    here = Path(sys.argv[0]).name == "subscape" and shutil.which("subscape") is None
    program = sys.argv[0] if here else "subscape"
    return "\n".join(["", "Next", *(f"  {program} {command}" for command in commands)])


def edit_of(run: Run, measures: Measures) -> list[str]:
    """The command that pushes the strongest of the subnetworks that can be pushed."""
    best = next((e.index for e in measures.ranked() if e.delta is not None), None)
    return [] if best is None else [f"edit {run.named} --set {best}"]
