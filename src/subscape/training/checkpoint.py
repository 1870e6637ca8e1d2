"""Everything a training run needs to go on as if it had never stopped, in one safetensors file.

Batches, positions and references depend on the seed and the step only (see `rows`), so the
state is the dictionary, the optimiser's state, and the number of steps done.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from subscape._checks import problem, require
from subscape._hash import sha256_of
from subscape._io import read_metadata, read_tensors, write_tensors
from subscape.training.trainer import Trainer

NAME = "checkpoint.safetensors"


def save_checkpoint(folder: Path, trainer: Trainer) -> None:
    """Write the trainer's state into a run folder, atomically, over the one before it."""
    state, said = trainer.state(), {"state": json.dumps(_identity(trainer))}
    if trainer.consolidation is not None:
        said["consolidation"] = json.dumps(trainer.consolidation)
    write_tensors(folder / NAME, state, said | {"checksum": checksum(said, state)})


def checksum(said: Mapping[str, str], state: Mapping[str, Tensor]) -> str:
    """SHA-256 of all that a checkpoint holds."""
    words = json.dumps({k: v for k, v in sorted(said.items()) if k != "checksum"})
    return sha256_of({words: torch.empty(0), **dict(sorted(state.items()))})


def load_checkpoint(folder: Path, trainer: Trainer) -> bool:
    """Bring a fresh trainer to the state of the run folder's checkpoint."""
    path = folder / NAME
    if not path.exists():
        return False
    said = read_metadata(path)
    require(
        "state" in said,
        "out",
        "a run folder",
        f"{path}, which is no checkpoint",
        "Choose another folder.",
    )
    state = read_tensors(path)
    require(
        said.get("checksum") == checksum(said, state),
        str(path),
        "a checkpoint as it was written",
        "other values than its checksum says",
        "Copy it again from its source, or start over (--overwrite).",
    )
    # Runs of before there was a choice started at random.
    found = {"start": "random"} | json.loads(said["state"])
    # Once through JSON, as what was written: tuples become lists.
    expected = json.loads(json.dumps(_identity(trainer)))
    hashed = json.loads(json.dumps(_identity(trainer, hashed=True)))
    for key in expected:
        if found.get(key) not in (expected[key], hashed[key]):
            raise ValueError(
                problem(
                    key,
                    f"{found.get(key)!r}, as in the run found in {folder}",
                    repr(expected[key]),
                    "Resume with the run's own settings and data, choose another folder, or start over "
                    "(--overwrite).",
                )
            )
    if "consolidation" in said:
        trainer.consolidation = json.loads(said["consolidation"])
    trainer.load_state(state)
    return True


def is_checkpoint(path: Path) -> bool:
    """Whether a run wrote the file."""
    try:
        return "state" in read_metadata(path)
    except (OSError, ValueError):
        return False


def _identity(trainer: Trainer, *, hashed: bool = False) -> dict[str, Any]:
    """Everything that the course of a run depends on, by the names of the settings.

    What is estimated from the data stands as its settings: its last digits are others with other numbers of
    processes or threads. `hashed`: as earlier checkpoints have it.
    """
    settings = {
        k: v
        for k, v in asdict(trainer.config).items()
        if k not in ("log_every", "checkpoint_every", "memory_gib", "micro_batch_size")
    }
    sources = [s.identity | ({} if hashed else s.estimated) for s in trainer.sources]
    return settings | {key: [s[key] for s in sources] for key in sources[0]}
