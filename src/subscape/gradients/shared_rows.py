"""Rows of which every process makes its own part, while what is asked of them is said of all.

Inner products with directions are few numbers a row, so all processes get those of all rows: what follows, the
selection over the whole batch, the error and its slopes, is then the same everywhere and as on one process. Only
the way back to the directions is shared out again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from subscape._ranks import Ranks
from subscape._shapes import Float
from subscape.gradients.row_gradients import RowGradients
from subscape.lowrank import Stack


@dataclass(frozen=True)
class SharedRows:
    """Row gradients of a batch, of which this process has its own rows; see `RowProducts`."""

    own: RowGradients | None
    """None where there are fewer groups of rows than processes, and none is left for this one."""
    sizes: Sequence[int]
    """Rows of every process, which follow each other."""
    ranks: Ranks
    like: Tensor
    """Device and type of what a process without rows says."""

    @property
    def n_rows(self) -> int:
        """Number of rows of all processes."""
        return sum(self.sizes)

    def inner(self, stack: Stack) -> Float[Tensor, "*replica row subnetwork"]:
        """⟨g_i, v_k⟩ of all rows; the mean over processes of what comes back is the gradient of all."""
        # Without a row, no numbers but on the way back zeros, as every process has to have a gradient.
        none = stack.weights.sum(-1)[..., None, :][..., :0, :]
        own = none if self.own is None else self.own.inner(stack)
        joined: Any = _Joined.apply(own, self.sizes, self.ranks)
        return joined

    def squared_norm(self) -> Float[Tensor, " row"]:
        """‖g_i‖² of all rows."""
        own = self.like.new_zeros(0) if self.own is None else self.own.squared_norm()
        return self.ranks.joined(own, self.sizes, dim=-1)

    def summed(
        self,
        measure: Callable[[RowGradients, Tensor], Float[Tensor, "*replica"]],
        codes: Float[Tensor, "*replica row subnetwork"],
    ) -> Float[Tensor, "*replica"]:
        """A sum over all rows of what is measured on each process's own, with their part of the codes."""
        own = codes.new_zeros(codes.shape[:-2])
        if self.own is not None:
            own = measure(self.own, codes.split(list(self.sizes), dim=-2)[self.ranks.rank])
        return self.ranks.summed(own.double())


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, sizes: Sequence[int], ranks: Ranks) -> Tensor:
        ctx.sizes, ctx.ranks = sizes, ranks
        return ranks.joined(own, sizes, dim=-2)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        own = grad_outputs[0].split(list(ctx.sizes), dim=-2)[ctx.ranks.rank]
        # What does not come through here is the same on all processes: a mean leaves it as it is.
        return own * ctx.ranks.size, None, None
