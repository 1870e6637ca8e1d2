"""Everything a training run needs to go on as if it had never stopped, in one safetensors file.

Batches, positions and references depend on the seed and the step only (see `gradients.source`), so the
state is the two stacks, Adam's moments, the counters, and the number of steps done.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from subscape._checks import problem
from subscape._io import read_metadata, read_tensors, write_tensors
from subscape.training.trainer import Trainer

NAME = "checkpoint.safetensors"


def save_checkpoint(folder: Path, trainer: Trainer) -> None:
    """Write the trainer's state into a run folder, atomically, over the one before it.

    Args:
        folder: the run folder.
        trainer: the trainer.
    """
    write_tensors(folder / NAME, trainer.state(), {"state": json.dumps(_identity(trainer))})


def load_checkpoint(folder: Path, trainer: Trainer) -> bool:
    """Bring a fresh trainer to the state of the run folder's checkpoint.

    Args:
        folder: the run folder.
        trainer: a trainer made from the same sources and settings.

    Returns:
        Whether there was a checkpoint.

    Raises:
        ValueError: if the checkpoint is of a run with other settings or another target.
    """
    path = folder / NAME
    if not path.exists():
        return False
    found = json.loads(read_metadata(path)["state"])
    expected = json.loads(json.dumps(_identity(trainer)))
    for key in expected:
        if found.get(key) != expected[key]:
            raise ValueError(
                problem(
                    str(path),
                    f"a checkpoint of a run with {key} = {expected[key]}",
                    f"{found.get(key)}",
                    "Resume with the run's own settings, or choose another folder.",
                )
            )
    trainer.load_state(read_tensors(path))
    return True


def _identity(trainer: Trainer) -> dict[str, Any]:
    target = trainer.sources[0].target.fingerprint()
    config = {k: v for k, v in asdict(trainer.config).items() if not k.endswith("_every")}
    return {"config": config, "target": target["sha256"], "n_samples": len(trainer.sources[0])}
