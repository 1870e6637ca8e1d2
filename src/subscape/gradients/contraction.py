"""How row gradients given as sums of outer products meet directions: through factors, or in full.

Through factors ⟨g_i, v_k⟩ costs T·K·r (d_0 + d_1) multiplications a row, in full K·d_0·d_1 and the memory of
a dense gradient; sizes decide.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from subscape._shapes import Bool, Float
from subscape.lowrank import TensorLayout
from subscape.lowrank.tensor import Pair, composing_cost, pair_rank

DENSE_BUDGET = 512 * 2**20
"""Bytes of dense gradients, or of dense directions, of one tensor above which factors are used instead."""
BLOCK_ENTRIES = 2**24
"""Inner products of terms with terms that are made at a time."""
ENTRY_COST = 150
"""What one entry of an intermediate [token, subnetwork, rank] costs beside the products that make it, in
multiplications: it is written and read a few times (measured on a CPU)."""


class Terms:
    """The terms left_t ⊗ right_t of all rows one after the other, without those that are zero."""

    def __init__(self, left: Tensor, right: Tensor, alive: Bool[Tensor, "row term"]) -> None:
        self.n_rows, n_terms = alive.shape
        self.left, self.right = left.flatten(0, 1), right.flatten(0, 1)
        self._row: Tensor | None = None
        # A causal model's row depends on the tokens before it only, a padded one's on real tokens.
        if int(alive.sum()) < 7 / 8 * alive.numel():
            index = alive.flatten().nonzero()[:, 0]
            self.left, self.right = self.left[index], self.right[index]
            self._row = index.div(n_terms, rounding_mode="floor")

    def __len__(self) -> int:
        return len(self.right)

    def sum(self, values: Float[Tensor, "term direction"]) -> Float[Tensor, "row direction"]:
        """Add up the terms of every row."""
        if self._row is None:
            return values.unflatten(0, (self.n_rows, -1)).sum(1)
        out = values.new_zeros(self.n_rows, values.shape[1])
        return out.index_add(0, self._row, values)

    def of_rows(self, weights: Float[Tensor, "mix row"]) -> Float[Tensor, "mix term"]:
        """What is given by row, by term."""
        if self._row is None:
            return weights.repeat_interleave(len(self) // self.n_rows, dim=1)
        return weights[:, self._row]


def through_factors(
    tensor: TensorLayout, n_directions: int, n_rows: int, n_terms: int, element_size: int
) -> bool:
    """Whether low-rank directions are contracted with factors rather than with dense gradients."""
    rank = pair_rank(tensor)
    if rank is None:
        return False
    largest = max(n_rows, n_directions) * tensor.numel * element_size
    if largest > DENSE_BUDGET:
        return True
    first = tensor.shape[0]
    rest = tensor.numel // first
    factors = n_terms * n_directions * rank * (first + rest + ENTRY_COST)
    dense = (n_terms + n_rows * n_directions) * tensor.numel + composing_cost(tensor, n_directions)
    return factors < dense


def terms_gram(
    first: Terms, second: Terms, products: Callable[[Tensor], Tensor]
) -> Float[Tensor, "row other"]:
    """Sums over the terms of both rows, some terms of the second at a time."""
    step = max(1, BLOCK_ENTRIES // max(1, len(first)))
    places = torch.arange(len(second), device=second.right.device).split(step)
    return second.sum(torch.cat([first.sum(products(at)) for at in places], dim=1).mT).mT


def columns(thin: Pair) -> tuple[Tensor, Tensor]:
    """Left and right [direction, size, rank] as matrices [size, direction · rank]."""
    left, right = (side.movedim(1, 0).flatten(1) for side in thin)
    return left, right
