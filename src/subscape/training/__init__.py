"""Training: settings, schedules, the trainer, checkpoints, and whole runs.

A function with the name of its file is imported from there, or from `subscape`.
"""

from subscape.training.config import TrainingConfig
from subscape.training.decompose import Prepared, prepare
from subscape.training.estimate import Estimate
from subscape.training.run import train, train_side_by_side
from subscape.training.trainer import Trainer

__all__ = [
    "Estimate",
    "Prepared",
    "Trainer",
    "TrainingConfig",
    "prepare",
    "train",
    "train_side_by_side",
]
