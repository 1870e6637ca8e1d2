"""How coefficients are learned."""

from __future__ import annotations

import math
from dataclasses import dataclass

from subscape._checks import require


@dataclass(frozen=True)
class FinetuneConfig:
    """How coefficients are learned."""

    steps: int = 300
    """Steps of Adam at most; the learning rate falls to 0 over them."""
    learning_rate: float = 0.03
    """How far a step moves a δ, about."""
    batch_size: int = 32
    """Samples in a step."""
    l1: float = 0.0
    """Weight of Σ|δ_k|: with more, fewer subnetworks move, and the others stay at exactly 0."""
    keep: float = 0.0
    """Weight of how far the outputs of `others` move from the original model's; without `others` those of
    the data."""
    evaluate_every: int = 20
    """Steps between looks at the held-out samples, at which the state is saved too."""
    patience: int = 5
    """Looks without a new best after which to stop."""
    n_heldout: int = 256
    """Held-out samples to look at, at most."""
    seed: int = 0
    """Draws the batches and what is held out."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "evaluate_every", "patience", "n_heldout"):
            value = getattr(self, name)
            right = isinstance(value, int) and value >= 1
            require(right, name, "a whole number of at least 1", value)
        rate = self.learning_rate
        require(rate > 0 and math.isfinite(rate), "learning_rate", "a number above 0", rate)
        for name in ("l1", "keep"):
            value = getattr(self, name)
            require(0 <= value < math.inf, name, "a number of at least 0", value)
