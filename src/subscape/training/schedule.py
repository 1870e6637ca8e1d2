"""Learning rate and dense warm-up as functions of the step."""

from __future__ import annotations

import math

from subscape.training.config import TrainingConfig

CONSOLIDATE_AT = 0.6
"""Share of the steps made with too many subnetworks; what is left of them settles in the rest."""


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Step size of Adam at `step` (counted from 0)."""
    if config.schedule == "cosine":
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * step / config.steps))
    if config.schedule == "step":
        return config.learning_rate * config.decay ** (step // config.decay_every)
    return config.learning_rate


def in_dense_warmup(config: TrainingConfig, step: int) -> bool:
    """Whether all coefficients are active at `step`."""
    return step < config.warmup * config.steps


def consolidation_step(config: TrainingConfig) -> int:
    """After how many steps subnetworks are merged and dropped; past the end if never."""
    return round(CONSOLIDATE_AT * config.steps) if config.consolidate else config.steps + 1
