"""Σ_k s_k v_k over all tensors, as a function of the sizes s that has a gradient."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from subscape._shapes import Float
from subscape.lowrank.layout import TensorLayout
from subscape.lowrank.stack import Stack
from subscape.lowrank.tensor import compose, pair, pair_rank


class Combination(nn.Module):
    """Sums of fixed directions [direction]; moves to other devices like any module.

    Directions stay thin matrices where these are smaller: Σ_k s_k left_k right_kᵀ is one product of
    [first, direction · rank] with [direction · rank, rest].
    """

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self.tensors = stack.layout.tensors
        pieces = stack.pieces()
        for place, tensor in enumerate(self.tensors):
            factors = _factors(tensor, [piece.detach() for piece in pieces[tensor.name]])
            self.register_buffer(f"left_{place}", factors.left, persistent=False)
            self.register_buffer(f"right_{place}", factors.right, persistent=False)

    def forward(self, sizes: Float[Tensor, " direction"]) -> dict[str, Float[Tensor, "..."]]:
        """The sum by parameter name."""
        return {
            t.name: self._sum(place, sizes).view(t.shape) for place, t in enumerate(self.tensors)
        }

    def _sum(self, place: int, sizes: Tensor) -> Tensor:
        left: Tensor | None = getattr(self, f"left_{place}")
        right: Tensor = getattr(self, f"right_{place}")
        if left is None:
            return sizes @ right
        return (left * sizes.repeat_interleave(left.shape[1] // len(sizes))) @ right


class _Factors(NamedTuple):
    left: Float[Tensor, "first terms"] | None
    """None where `right` has the directions in full, a row each."""
    right: Float[Tensor, "terms rest"]


def _factors(tensor: TensorLayout, pieces: list[Tensor]) -> _Factors:
    rank = pair_rank(tensor)
    first = tensor.shape[0] if tensor.shape else 1
    if rank is None or rank * (first + tensor.numel // first) >= tensor.numel:
        return _Factors(None, compose(tensor, pieces).flatten(1))
    left, right = pair(tensor, pieces)
    return _Factors(
        torch.movedim(left, 0, 1).flatten(1).contiguous(), right.mT.flatten(0, 1).contiguous()
    )
