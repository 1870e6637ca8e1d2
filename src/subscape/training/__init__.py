"""Training: settings, schedules, the trainer, checkpoints, and whole runs."""

from subscape.training.config import TrainingConfig
from subscape.training.decompose import Prepared, decompose, prepare
from subscape.training.estimate import Estimate, estimate
from subscape.training.run import train, train_side_by_side
from subscape.training.trainer import Trainer

__all__ = [
    "Estimate",
    "Prepared",
    "Trainer",
    "TrainingConfig",
    "decompose",
    "estimate",
    "prepare",
    "train",
    "train_side_by_side",
]
