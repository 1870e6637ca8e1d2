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

from subscape._shapes import Float
from subscape.lowrank.layout import Layout, TensorLayout


@dataclass(frozen=True)
class Stack:
    """Low-rank directions with any leading axes, usually (replica, subnetwork) or (subnetwork,).

    Two stacks make a decomposition: an encoder V_in and a decoder V_out (arXiv 2504.00194, sec. 3).
    """

    layout: Layout
    weights: Float[Tensor, "*lead size"]
    """All pieces of a direction in one vector, in the order of `layout.sizes`."""

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
        return torch.cat([d.reshape(*lead, -1) for d in self.dense().values()], dim=-1)

    def norms(self) -> Float[Tensor, "*lead tensor"]:
        """L2 norm of every direction in each tensor, in model order."""
        lead = self.weights.shape[:-1]
        return torch.stack(
            [d.reshape(*lead, -1).norm(dim=-1) for d in self.dense().values()], dim=-1
        )

    def scaled(self, factor: Float[Tensor, "*lead"]) -> Stack:
        """The stack with every direction multiplied by `factor` (> 0).

        The factor is spread evenly over the pieces of a tensor (its m-th root to each of m), so that
        no piece drifts to a scale of its own under an optimiser whose steps do not know scale.

        Args:
            factor: positive.

        Returns:
            A new stack.
        """
        weights = self.weights
        exponents = _shares(self.layout, weights.dtype, weights.device)
        return Stack(self.layout, weights * factor[..., None] ** exponents)

    def select(self, index: int | slice | Tensor) -> Stack:
        """The stack at `index` of its first leading axis."""
        return Stack(self.layout, self.weights[index])


@lru_cache(maxsize=64)
def _shares(layout: Layout, dtype: torch.dtype, device: torch.device) -> Float[Tensor, " size"]:
    """For every entry 1/m, with m the number of pieces of its tensor."""
    shares = [
        torch.full((math.prod(shape),), 1 / len(t.piece_shapes), dtype=dtype, device=device)
        for t in layout.tensors
        for shape in t.piece_shapes
    ]
    return torch.cat(shares)


def compose(tensor: TensorLayout, pieces: list[Tensor]) -> Float[Tensor, "..."]:
    """Multiply the pieces of one tensor out to [*lead, *shape]."""
    if tensor.form == "cp":
        return _compose_cp(pieces)
    core, *factors = pieces
    if len(tensor.shape) == 2:
        for mode, factor in zip(tensor.factored_modes, factors, strict=True):
            core = _product(factor, core) if mode == 0 else _product(core, factor.mT)
        return core
    for mode, factor in zip(tensor.factored_modes, factors, strict=True):
        core = _mode_product(core, factor, mode - len(tensor.shape))
    return core


def _product(left: Tensor, right: Tensor) -> Tensor:
    """A matrix product; of rank one as a plain outer product, which is faster for many small ones."""
    return left * right if left.shape[-1] == 1 else left @ right


def _mode_product(core: Tensor, factor: Tensor, mode: int) -> Tensor:
    """Multiply `factor` [*lead, d, r] onto the axis `mode` (negative) of `core` [*lead, ..., r, ...]."""
    n_modes_after = -mode - 1
    axes = "abcdefgh"[:n_modes_after]
    # Axes before `mode` stay in '...' only when they are leading axes; the modes before it are named.
    n_before = core.dim() - (factor.dim() - 2) - n_modes_after - 1
    before = "ijklmnop"[:n_before]
    return torch.einsum(f"...{before}r{axes},...dr->...{before}d{axes}", core, factor)


def _compose_cp(factors: list[Tensor]) -> Tensor:
    if len(factors) == 2:
        return _product(factors[0], factors[1].mT)
    axes = "abcdefgh"[: len(factors)]
    terms = ",".join(f"...{a}r" for a in axes)
    return torch.einsum(f"{terms}->...{axes}", *factors)


def initial_stack(
    layout: Layout, lead: tuple[int, ...], generator: torch.Generator, like: Tensor
) -> Stack:
    """Random directions of unit norm, every tensor drawn with the same mean square per entry.

    Args:
        layout: the pieces.
        lead: leading axes, usually (replica, subnetwork).
        generator: a CPU generator; the draw is the same on every device.
        like: device and dtype to follow.

    Returns:
        A stack whose directions have L2 norm 1 over all tensors together.
    """
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
    norm = stack.flat().norm(dim=-1).clamp_min(torch.finfo(stack.weights.dtype).tiny)
    return stack.scaled(1 / norm)
