"""Where learning is: all that a run needs to go on as if it had never stopped, in one small file."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from subscape._checks import require
from subscape._io import read_metadata, read_tensors, write_tensors
from subscape.finetuning.adam import Adam

CHECKPOINT = "checkpoint.safetensors"
KEY = "finetune"
"""In the header of a checkpoint: everything that the course of the run depends on."""


@dataclass(frozen=True)
class State:
    """Where learning is, and the best there was."""

    adam: Adam
    best: Tensor
    best_objective: float
    best_step: int = 0
    stale: int = 0
    """Looks since then."""

    def looked(self, objective: float) -> State:
        """After a look at held-out samples."""
        if objective < self.best_objective:
            return State(self.adam, self.adam.values, objective, self.adam.step)
        return replace(self, stale=self.stale + 1)


def save(folder: Path, state: State, identity: str) -> None:
    """Write the state into a run folder, atomically, over the one before it."""
    tensors = {
        "values": state.adam.values,
        "mean": state.adam.mean,
        "square": state.adam.square,
        "best": state.best,
        "objective": torch.tensor(state.best_objective, dtype=torch.float64),
        "counts": torch.tensor([state.adam.step, state.best_step, state.stale]),
    }
    write_tensors(folder / CHECKPOINT, tensors, {KEY: identity})


def load(folder: Path, identity: str, device: torch.device) -> State | None:
    """The state in a run folder; refuses that of another run."""
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    written, asked = json.loads(read_metadata(path).get(KEY, "{}")), json.loads(identity)
    for name, value in asked.items():
        require(
            written.get(name) == value,
            name,
            f"{written.get(name)!r}, as in the run found in {folder}",
            repr(value),
            "Resume with the run's own settings and data, choose another folder, or start over (--overwrite).",
        )
    kept = {k: v.to(device) for k, v in read_tensors(path).items()}
    step, best_step, stale = kept["counts"].tolist()
    adam = Adam(kept["values"], kept["mean"], kept["square"], step)
    return State(adam, kept["best"], float(kept["objective"]), best_step, stale)


def is_checkpoint(path: Path) -> bool:
    """Whether `save` wrote the file."""
    return path.is_file() and KEY in read_metadata(path)
