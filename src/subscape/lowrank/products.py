"""Inner products of directions with directions, some rows of the map at a time.

What is in memory grows with the number of directions and not with its square.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from subscape._shapes import Float
from subscape.lowrank.stack import Stack
from subscape.lowrank.tensor import LARGEST_PRODUCT, inner

LARGEST_BLOCK = LARGEST_PRODUCT // 4
"""Bytes of some rows of the map, and of the products of thin matrices that these are made of."""
FEWEST = 16
"""Directions at a time, however large they are when they are multiplied out."""


@torch.no_grad()
def blocks_of_products(one: Stack, other: Stack) -> Iterator[Float[Tensor, "some other"]]:
    """⟨v_k, u_l⟩ for some k after the other and all l, of the same tensors, in order, whatever the ranks."""
    entry = one.weights.element_size()
    largest = max(t.numel for t in one.layout.tensors)
    rank = max(1, *(r for s in (one, other) for t in s.layout.tensors for r in t.ranks))
    dense = max(FEWEST, LARGEST_PRODUCT // (largest * entry))
    n = min(dense, max(FEWEST, LARGEST_BLOCK // (len(other.weights) * entry)))
    m = min(dense, max(FEWEST, LARGEST_BLOCK // (n * rank**2 * entry)))
    for rows in one.weights.split(n):
        some = Stack(one.layout, rows)
        yield torch.cat(
            [_products(some, Stack(other.layout, w)) for w in other.weights.split(m)], 1
        )


def _products(one: Stack, other: Stack) -> Float[Tensor, "some other"]:
    pieces, of_other = one.pieces(), other.pieces()
    tensors = zip(one.layout.tensors, other.layout.tensors, strict=True)
    first, *rest = [inner(t, pieces[t.name], u, of_other[u.name]) for t, u in tensors]
    return sum(rest, first)
