"""One tensor's low-rank directions: multiplied out, or as pairs of thin matrices.

A direction in one tensor, unfolded to a matrix [d_0, d_1 · d_2 · …], is left @ rightᵀ with `left`
[d_0, r] and `right` [rest, r]. So, for directions k and l,

    ⟨v_k, v_l⟩ = Σ_pq (left_k,p · left_l,q) (right_k,p · right_l,q),

which costs (K·r)² (d_0 + rest) instead of K² d_0 · rest, and never needs K dense tensors.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from subscape._shapes import Float
from subscape.lowrank.layout import TensorLayout

LARGEST_PRODUCT = 64 * 2**20
"""Bytes of products of directions with directions that are made at a time."""
SMALL = 4096
"""Entries of a tensor up to which its directions are always multiplied out: fewer, larger products."""


def compose(tensor: TensorLayout, pieces: list[Tensor]) -> Float[Tensor, "..."]:
    """Multiply the pieces of one tensor out to [*lead, *shape]."""
    if tensor.form == "cp":
        return _compose_cp(pieces)
    core, *factors = pieces
    if len(tensor.shape) == 2:
        for mode, factor in zip(tensor.factored_modes, factors, strict=True):
            core = _product(factor, core) if mode == 0 else _product(core, factor.mT)
        return core
    return _multiply(tensor, core, dict(zip(tensor.factored_modes, factors, strict=True)))


def compose_rest(tensor: TensorLayout, pieces: list[Tensor]) -> Float[Tensor, "..."]:
    """Multiply a Tucker tensor's core with all its factors but that of the first mode."""
    core, *factors = pieces
    by_mode = dict(zip(tensor.factored_modes, factors, strict=True))
    by_mode.pop(0, None)
    return _multiply(tensor, core, by_mode)


def _multiply(tensor: TensorLayout, core: Tensor, factors: dict[int, Tensor]) -> Tensor:
    for mode, factor in factors.items():
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


class Pair(NamedTuple):
    """A direction of one tensor as left @ rightᵀ."""

    left: Float[Tensor, "*lead first rank"]
    """Along the tensor's first mode."""
    right: Float[Tensor, "*lead rest rank"]
    """Along all its other modes, flattened."""


def pair_rank(tensor: TensorLayout) -> int | None:
    """Rank of the pair of a tensor; None where thin matrices do not exist (a whole first mode)."""
    if len(tensor.shape) < 2:
        return None
    if tensor.form == "cp":
        return tensor.ranks[0]
    if len(tensor.shape) == 2:
        rank = min(tensor.ranks)
        return rank if rank < min(tensor.shape) else None
    return tensor.ranks[0] if 0 in tensor.factored_modes else None


def pair(tensor: TensorLayout, pieces: list[Tensor]) -> Pair:
    """The thin matrices of a tensor's directions, where `pair_rank` gives a rank."""
    if tensor.form == "cp":
        rest = pieces[1]
        for factor in pieces[2:]:
            rest = (rest[..., :, None, :] * factor[..., None, :, :]).flatten(-3, -2)
        return Pair(pieces[0], rest)
    core, *factors = pieces
    by_mode = dict(zip(tensor.factored_modes, factors, strict=True))
    if len(tensor.shape) == 2:
        # The core goes to the side that leaves the smaller rank.
        if tensor.ranks[0] <= tensor.ranks[1]:
            rest = by_mode[1] @ core.mT if 1 in by_mode else core.mT
            return Pair(by_mode[0], rest)
        return Pair(by_mode[0] @ core if 0 in by_mode else core, by_mode[1])
    rest = compose_rest(tensor, pieces)
    return Pair(by_mode[0], rest.flatten(-len(tensor.shape) + 1).mT)


def gram(tensor: TensorLayout, pieces: list[Tensor]) -> Float[Tensor, "*lead n n"]:
    """Inner products of directions that share the leading axes, the cheaper way."""
    lead = pieces[0].dim() - len(tensor.piece_shapes[0])
    n = pieces[0].shape[lead - 1]
    rank = pair_rank(tensor)
    if rank is None or not _thin_is_cheaper(tensor, rank, n):
        return self_product(compose(tensor, pieces).reshape(*pieces[0].shape[:lead], -1))
    left, right = pair(tensor, pieces)
    if left[..., 0, 0].numel() * n * rank**2 * left.element_size() > LARGEST_PRODUCT:
        return _gram_in_tiles(left, right)
    products = self_product(left.mT.flatten(-3, -2)) * self_product(right.mT.flatten(-3, -2))
    return products.unflatten(-1, (n, rank)).sum(-1).unflatten(-2, (n, rank)).sum(-2)


def _gram_in_tiles(left: Tensor, right: Tensor) -> Float[Tensor, "*lead n n"]:
    """The same with the products of some directions at a time, which are made anew in the backward pass."""
    *lead, n, _, rank = left.shape
    entries = LARGEST_PRODUCT // (left.element_size() * torch.Size(lead).numel())
    step = max(1, int(entries**0.5) // rank)
    places = [slice(start, start + step) for start in range(0, n, step)]
    tiles: list[list[Tensor]] = [[] for _ in places]
    for i, one in enumerate(places):
        for j, other in enumerate(places):
            if j < i:  # symmetric
                tiles[i].append(tiles[j][i].mT)
                continue
            sides = [side[..., at, :, :] for side in (left, right) for at in (one, other)]
            tiles[i].append(checkpoint(_tile, *sides, use_reentrant=False))  # pyright: ignore[reportArgumentType]
    return torch.cat([torch.cat(line, dim=-1) for line in tiles], dim=-2)


def _tile(left: Tensor, left_other: Tensor, right: Tensor, right_other: Tensor) -> Tensor:
    """Inner products of some directions with others."""
    sides = [s.mT.flatten(-3, -2) for s in (left, left_other, right, right_other)]
    products = (sides[0] @ sides[1].mT) * (sides[2] @ sides[3].mT)
    by_other = products.unflatten(-1, (-1, left_other.shape[-1])).sum(-1)
    return by_other.unflatten(-2, (-1, left.shape[-1])).sum(-2)


def inner(
    tensor: TensorLayout, pieces: list[Tensor], other: TensorLayout, of_other: list[Tensor]
) -> Float[Tensor, "n m"]:
    """Inner products of n directions of a tensor with m others, which may have other ranks."""
    ranks = pair_rank(tensor), pair_rank(other)
    rank = None if None in ranks else max(r or 0 for r in ranks)
    if rank is None or not _thin_is_cheaper(tensor, rank, len(pieces[0])):
        both = (tensor, pieces), (other, of_other)
        dense = [compose(t, p).reshape(len(p[0]), -1) for t, p in both]
        return dense[0] @ dense[1].mT
    (left, right), (left_other, right_other) = pair(tensor, pieces), pair(other, of_other)
    return _tile(left, left_other, right, right_other)


def squared_norm(tensor: TensorLayout, pieces: list[Tensor]) -> Float[Tensor, "*lead"]:
    """‖v‖² of every direction in this tensor."""
    lead = pieces[0].dim() - len(tensor.piece_shapes[0])
    if pair_rank(tensor) is None or tensor.numel <= SMALL:
        dense = compose(tensor, pieces)
        return dense.reshape(*pieces[0].shape[:lead], -1).square().sum(-1)
    left, right = pair(tensor, pieces)
    return ((left.mT @ left) * (right.mT @ right)).sum((-2, -1)).clamp_min(0)


def _thin_is_cheaper(tensor: TensorLayout, rank: int, n: int) -> bool:
    first = tensor.shape[0]
    rest = tensor.numel // first
    dense = n * n * tensor.numel + n * rank * tensor.numel
    return tensor.numel > SMALL and (n * rank) ** 2 * (first + rest) < dense


def self_product(rows: Float[Tensor, "*lead n size"]) -> Float[Tensor, "*lead n n"]:
    """X Xᵀ, with one product instead of two in the backward pass."""
    # Batched products are slower, so axes of length 1 are left out of them.
    lead = rows.shape[:-2]
    flat = rows.reshape(rows.shape[-2:]) if lead.numel() == 1 else rows
    product: Any = _SelfProduct.apply(flat)
    return product.view(*lead, *product.shape[-2:])


class _SelfProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        return rows @ rows.mT

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        (rows,) = ctx.saved_tensors
        (grad,) = grad_outputs
        return (grad + grad.mT) @ rows


def composing_cost(tensor: TensorLayout, n: int) -> int:
    """Multiplications to multiply out n directions of a tensor."""
    if len(tensor.shape) < 2:
        return 0
    cost, sizes = 0, list(tensor.ranks)
    if tensor.form == "cp":
        return n * tensor.ranks[0] * tensor.numel
    for mode in tensor.factored_modes:
        cost += math.prod(sizes) * tensor.shape[mode]
        sizes[mode] = tensor.shape[mode]
    return n * cost
