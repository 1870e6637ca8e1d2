"""Stacks of low-rank directions: the numbers behind a layout.

A stack holds, for every replica (restart) and subnetwork, the flat vector of pieces that its layout
describes, and turns it into dense tensors. It knows nothing of gradients or training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from subscape._shapes import Float, Int
from subscape.lowrank.layout import Layout
from subscape.lowrank.tensor import compose, gram, squared_norm


@dataclass(frozen=True, repr=False)
class Stack:
    """Low-rank directions with any leading axes, usually (replica, subnetwork) or (subnetwork,).

    Two stacks make a decomposition: an encoder V_in and a decoder V_out (arXiv 2504.00194, sec. 3).
    """

    layout: Layout
    weights: Float[Tensor, "*lead size"]
    """All pieces of a direction in one vector, in the order of `layout.sizes`."""

    def __repr__(self) -> str:
        n = " × ".join(map(str, self.weights.shape[:-1])) or "1"
        return f"Stack({n} directions over {len(self.layout.tensors)} tensors)"

    def pieces(self) -> dict[str, list[Float[Tensor, "..."]]]:
        """The pieces by parameter name: core (Tucker only), then factors; each [*lead, *piece]."""
        lead = self.weights.shape[:-1]
        parts = iter(self.weights.split(self.layout.sizes, dim=-1))
        return {
            t.name: [next(parts).view((*lead, *shape)) for shape in t.piece_shapes]
            for t in self.layout.tensors
        }

    def dense(self) -> dict[str, Float[Tensor, "..."]]:
        """The directions as full tensors by parameter name, each [*lead, *shape]."""
        pieces = self.pieces()
        return {t.name: compose(t, pieces[t.name]) for t in self.layout.tensors}

    def flat(self) -> Float[Tensor, "*lead parameter"]:
        """The directions as full vectors: all tensors flattened and concatenated in model order."""
        lead = self.weights.shape[:-1]
        dense = self.dense()
        parts = [dense[t.name].reshape(*lead, t.numel) for t in self.layout.tensors]
        return torch.cat(parts, dim=-1)

    def norms(self) -> Float[Tensor, "*lead tensor"]:
        """L2 norm of every direction in each tensor, in model order."""
        pieces = self.pieces()
        squares = [squared_norm(t, pieces[t.name]) for t in self.layout.tensors]
        return torch.stack(squares, dim=-1).sqrt()

    def gram(self) -> Float[Tensor, "*replica subnetwork subnetwork"]:
        """K = V Vᵀ over all tensors together, of directions [*replica, subnetwork]."""
        pieces = self.pieces()
        first, *others = [gram(t, pieces[t.name]) for t in self.layout.tensors]
        return sum(others, first)

    def scaled(self, factor: Float[Tensor, "*lead"]) -> Stack:
        """The stack with every direction multiplied by `factor` (> 0).

        The factor is spread evenly over the pieces of a tensor (its m-th root to each of m), so that
        no piece drifts to a scale of its own under an optimiser whose steps do not know scale.
        """
        # A power per tensor, not per entry: powers are slow.
        powers = factor[..., None] ** _shares(self.layout, factor.dtype, factor.device)
        return Stack(self.layout, self.weights * powers[..., _owner(self.layout, factor.device)])

    def turned(self, sign: Float[Tensor, "*lead"]) -> Stack:
        """The stack with every direction multiplied by its sign, 1 or −1."""
        # One piece of every tensor: a product of all would turn back.
        places = [p for t in self.layout.tensors for p in range(len(t.piece_shapes))]
        parts = self.weights.split(self.layout.sizes, dim=-1)
        signed = [w if p else w * sign.to(w)[..., None] for p, w in zip(places, parts, strict=True)]
        return Stack(self.layout, torch.cat(signed, dim=-1))

    def select(self, index: int | slice | Tensor) -> Stack:
        """The stack at `index` of its first leading axis."""
        return Stack(self.layout, self.weights[index])


@lru_cache(maxsize=64)
def _shares(layout: Layout, dtype: torch.dtype, device: torch.device) -> Float[Tensor, " tensor"]:
    """For every tensor 1/m, with m the number of its pieces."""
    shares = [1 / len(t.piece_shapes) for t in layout.tensors]
    return torch.tensor(shares, dtype=dtype, device=device)


@lru_cache(maxsize=64)
def _owner(layout: Layout, device: torch.device) -> Int[Tensor, " size"]:
    """For every entry of the flat vector, the place of its tensor."""
    sizes = [sum(math.prod(shape) for shape in t.piece_shapes) for t in layout.tensors]
    return torch.arange(len(sizes), device=device).repeat_interleave(
        torch.tensor(sizes, device=device)
    )


def initial_stack(
    layout: Layout, lead: tuple[int, ...], generator: torch.Generator, like: Tensor
) -> Stack:
    """Random directions of unit norm, every tensor drawn with the same mean square per entry."""
    parts = []
    for t in layout.tensors:
        for place, shape in enumerate(t.piece_shapes):
            values = torch.randn(*lead, math.prod(shape), generator=generator, dtype=torch.float64)
            # Entries of unit variance: those of Tucker are sums over a rank per factor beside a core of
            # unit variance, those of CP one sum over products of m factors.
            if t.form == "cp":
                values *= shape[-1] ** (-0.5 / len(t.shape))
            elif place > 0:
                values /= math.sqrt(shape[-1])
            parts.append(values)
    weights = torch.cat(parts, dim=-1).to(device=like.device, dtype=like.dtype)
    return unit(Stack(layout, weights))


def unit(stack: Stack) -> Stack:
    """Scale every direction to unit L2 norm over all tensors together (true unit vectors)."""
    norm = stack.norms().norm(dim=-1).clamp_min(torch.finfo(stack.weights.dtype).tiny)
    return stack.scaled(1 / norm)
