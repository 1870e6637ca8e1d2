"""Learning rate and active fraction as functions of the step."""

from __future__ import annotations

import math

from subscape.training.config import TrainingConfig


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Step size of Adam at `step` (counted from 0)."""
    if config.schedule == "cosine":
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * step / config.steps))
    if config.schedule == "step":
        return config.learning_rate * config.decay ** (step // config.decay_every)
    return config.learning_rate


def active_fraction(config: TrainingConfig, step: int) -> float:
    """K at `step`: everything during the warm start, `config.active_fraction` after it."""
    return 1.0 if step < config.warm_start * config.steps else config.active_fraction
