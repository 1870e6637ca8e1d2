"""Training: settings, schedules, the trainer, checkpoints, and whole runs."""

from subscape.training.config import TrainingConfig
from subscape.training.decompose import decompose
from subscape.training.run import train, train_side_by_side
from subscape.training.trainer import Trainer

__all__ = ["Trainer", "TrainingConfig", "decompose", "train", "train_side_by_side"]
