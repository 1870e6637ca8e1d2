"""Adam for a few numbers with an L1 penalty that leaves zeros: a state, and the state after a step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from subscape._shapes import Float

BETAS = (0.9, 0.99)
"""Shares of the running means kept; a run of hundreds of steps is too short for the usual 0.999."""
EPS = 1e-8


@dataclass(frozen=True)
class Adam:
    """Where the numbers are, and the running means of their gradients."""

    values: Float[Tensor, " number"]
    """The numbers."""
    mean: Float[Tensor, " number"]
    """Of gradients."""
    square: Float[Tensor, " number"]
    """Of squared gradients."""
    step: int = 0
    """Steps done."""

    def after(self, gradient: Float[Tensor, " number"], rate: float, l1: float = 0.0) -> Adam:
        """The state after a step down f + l1 Σ|x|, of which `gradient` is f's.

        The penalty's step is proximal, in the scale of Adam's own: a number rests at 0 where |∂f| ≤ l1.
        """
        step = self.step + 1
        mean = torch.lerp(gradient, self.mean, BETAS[0])
        square = torch.lerp(gradient.square(), self.square, BETAS[1])
        scale = rate / ((square / (1 - BETAS[1] ** step)).sqrt() + EPS)
        moved = self.values - scale * mean / (1 - BETAS[0] ** step)
        values = moved.sign() * (moved.abs() - scale * l1).clamp_min(0)
        return Adam(values, mean, square, step)


def at_rest(values: Float[Tensor, " number"]) -> Adam:
    """The state before the first step."""
    return Adam(values, torch.zeros_like(values), torch.zeros_like(values))
