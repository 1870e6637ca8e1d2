"""Dense directions to the nearest pieces of a layout, to start subnetworks from gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from subscape._shapes import Float
from subscape.lowrank.layout import Layout, TensorLayout
from subscape.lowrank.stack import Stack

LARGE = 128
"""Shorter side of a matrix above which its leading singular vectors are found alone."""
OVERSAMPLED = 2
"""Directions drawn per singular vector wanted."""
N_POWERS = 3
"""Power iterations: the error beyond the wanted ones falls with the seventh power of their ratio."""


def project(layout: Layout, directions: Float[Tensor, "direction parameter"]) -> Stack:
    """Low-rank approximations of dense directions, not normalised.

    Tucker by sequentially truncated higher-order SVD (Vannieuwenhoven et al. 2012: best for matrices,
    near-best beyond; each mode sees what the modes before it keep, so that ties are decided alike), CP of
    matrices by SVD; CP of higher order starts from the best terms of the first unfolding.
    """
    parts: list[Tensor] = []
    dense = directions.double().split([t.numel for t in layout.tensors], dim=-1)
    for t, block in zip(layout.tensors, dense, strict=True):
        tensors = block.reshape(-1, *t.shape)
        pieces = _cp(t, tensors) if t.form == "cp" else _tucker(t, tensors)
        parts += [p.reshape(len(p), -1) for p in pieces]
    return Stack(layout, torch.cat(parts, dim=-1).to(directions.dtype))


def _tucker(t: TensorLayout, tensors: Tensor) -> list[Tensor]:
    core, factors = tensors, []
    for mode in t.factored_modes:
        factor = _leading(core, mode, t.ranks[mode])[0]
        factors.append(factor)
        core = torch.einsum("n...d,ndr->n...r", core.movedim(mode + 1, -1), factor).movedim(
            -1, mode + 1
        )
    return _balanced([core, *factors])


def _cp(t: TensorLayout, tensors: Tensor) -> list[Tensor]:
    left, values, right = _leading(tensors, 0, t.ranks[0], with_right=True)
    if len(t.shape) == 2:
        return _balanced([_padded(left * values[:, None], t.ranks[0]), _padded(right, t.ranks[0])])
    # Split the right vectors on, mode after mode, into their leading terms.
    rest = right.mT.unflatten(-1, t.shape[1:])
    factors = [
        torch.cat([_leading(rest[:, r], mode, 1)[0] for r in range(rest.shape[1])], dim=-1)
        for mode in range(len(t.shape) - 1)
    ]
    # Singular vectors have any sign: what a term is of its right vector goes to the first factor.
    axes = "abcdefgh"[: len(factors)]
    terms = ",".join(f"n{a}r" for a in axes)
    share = torch.einsum(f"nr{axes},{terms}->nr", rest, *factors)
    first = left * (values * share)[:, None]
    return _balanced([_padded(factor, t.ranks[0]) for factor in [first, *factors]])


def _leading(
    tensors: Tensor, mode: int, rank: int, with_right: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    unfolded = tensors.movedim(mode + 1, 1).flatten(2)
    left, values, right = _svd(unfolded, rank)
    k = min(rank, values.shape[-1])
    left = _padded(left[..., :k], rank) if not with_right else left[..., :k]
    return left, values[..., :k], right[:, :k].mT


def _svd(matrices: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Singular vectors and values, of large matrices only those that `rank` needs."""
    shorter = min(matrices.shape[1:])
    if shorter <= LARGE or OVERSAMPLED * rank > shorter:
        return torch.linalg.svd(matrices, full_matrices=False)
    # Randomised range finder with power iterations (Halko, Martinsson and Tropp 2011, Alg. 4.4).
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(matrices.shape[2], OVERSAMPLED * rank, generator=generator)
    basis = torch.linalg.qr(matrices @ start.to(matrices)).Q
    for _ in range(N_POWERS):
        basis = torch.linalg.qr(matrices @ torch.linalg.qr(matrices.mT @ basis).Q).Q
    left, values, right = torch.linalg.svd(basis.mT @ matrices, full_matrices=False)
    return basis @ left, values, right


def _padded(factor: Tensor, rank: int) -> Tensor:
    return torch.nn.functional.pad(factor, (0, rank - factor.shape[-1]))


def _balanced(pieces: list[Tensor]) -> list[Tensor]:
    """The same product with pieces of equal mean square, so that one step size fits them all."""
    if len(pieces) == 1:
        return pieces
    tiny = torch.finfo(pieces[0].dtype).tiny
    sizes = [p.flatten(1).square().mean(1).sqrt().clamp_min(tiny) for p in pieces]
    middle = torch.stack(sizes).log().mean(0).exp()
    return [
        p * (middle / size).view(-1, *[1] * (p.dim() - 1))
        for p, size in zip(pieces, sizes, strict=True)
    ]
