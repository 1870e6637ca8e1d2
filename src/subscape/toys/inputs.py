"""Sparse inputs: groups of features that are active together, each group on its own coin.

What all toys are trained on and decomposed with. All-zero inputs are dropped: their gradients do not
depend on any circuit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from subscape._checks import require
from subscape._shapes import Float


@dataclass(frozen=True)
class SparseInputs:
    """A distribution over sparse vectors (arXiv 2504.00194, sec. 4.1)."""

    n_features: int
    """Length of an input."""
    group_size: int = 1
    """Neighbouring features that are active together; each keeps a value of its own."""
    probability: float = 0.05
    """Probability that a group is active."""
    low: float = 0.0
    """Lower end of the uniform values of active features."""
    high: float = 1.0
    """Upper end of the uniform values of active features."""
    correlation: float | None = None
    """Share of its rows in which the second group is active where the first is; None for independent coins."""
    first_scale: float = 1.0
    """What the values of the first feature are multiplied by."""

    def __post_init__(self) -> None:
        require(
            self.n_features % self.group_size == 0,
            "group_size",
            f"a divisor of n_features={self.n_features}",
            self.group_size,
        )
        require(0 < self.probability <= 1, "probability", "in (0, 1]", self.probability)
        require(
            self.correlation is None or (0 <= self.correlation <= 1 and self.n_groups > 1),
            "correlation",
            "in [0, 1], with two groups or more",
            self.correlation,
        )

    @property
    def n_groups(self) -> int:
        """Number of groups, each of which is one circuit."""
        return self.n_features // self.group_size

    def sample(self, n: int, generator: Generator) -> Float[Tensor, "row feature"]:
        """Draw inputs with at least one active group."""
        kept, n_kept = [], 0
        share = 1 - (1 - self.probability) ** self.n_groups
        while n_kept < n:
            n_drawn = math.ceil((n - n_kept) / share) + 16
            on = self._coins(torch.rand(n_drawn, self.n_groups, generator=generator))
            on = on[on.any(1)]
            values = self._values(len(on), self.n_features, generator)
            kept.append(values * on.repeat_interleave(self.group_size, dim=1))
            n_kept += len(on)
        return self._scaled(torch.cat(kept)[:n])

    def single(self, group: int, n: int, generator: Generator) -> Float[Tensor, "row feature"]:
        """Draw inputs in which one group alone is active."""
        require(0 <= group < self.n_groups, "group", f"one of 0..{self.n_groups - 1}", group)
        first = group * self.group_size
        inputs = torch.zeros(n, self.n_features)
        inputs[:, first : first + self.group_size] = self._values(n, self.group_size, generator)
        return self._scaled(inputs)

    def active_groups(self, inputs: Float[Tensor, "row feature"]) -> Tensor:
        """Which groups are active in which input, a bool tensor [row, group]."""
        return (inputs != 0).unflatten(1, (self.n_groups, self.group_size)).any(2)

    def _coins(self, drawn: Float[Tensor, "row group"]) -> Tensor:
        """Which groups are active, from uniform draws; every group in the same share of all rows."""
        p, together = self.probability, self.correlation
        on = drawn < p
        if together is not None:
            alone = p * (1 - together) / (1 - p)
            on[:, 1] = drawn[:, 1] < torch.where(on[:, 0], together, alone)
        return on

    def _scaled(self, inputs: Float[Tensor, "row feature"]) -> Float[Tensor, "row feature"]:
        inputs[:, 0] *= self.first_scale
        return inputs

    def _values(self, n: int, n_features: int, generator: Generator) -> Tensor:
        unit = torch.rand(n, n_features, generator=generator)
        return self.low + (self.high - self.low) * unit
