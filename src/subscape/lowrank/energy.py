"""What codes rebuild, ‖Σ_k s_k v_k‖², without the Gram matrix of the directions where that is large.

With K = V Vᵀ it is Σ_rows sᵀ K s. Beyond `LARGEST_GRAM` the rows are rebuilt instead, some directions at a time,
so that memory grows with the number of directions and not with its square.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from subscape._shapes import Float
from subscape.lowrank.layout import Layout, TensorLayout
from subscape.lowrank.stack import Stack
from subscape.lowrank.tensor import LARGEST_PRODUCT as LARGEST_GRAM
from subscape.lowrank.tensor import compose


def gram_fits(stack: Stack, like: Tensor | None = None) -> bool:
    """Whether the Gram matrices of all replicas together are small enough to be made, in the type of `like`."""
    *lead, n, _ = stack.weights.shape
    entry = (stack.weights if like is None else like).element_size()
    return torch.Size(lead).numel() * n**2 * entry <= LARGEST_GRAM


def energy(
    codes: Float[Tensor, "*replica row subnetwork"], stack: Stack
) -> Float[Tensor, "*replica"]:
    """Σ_rows ‖Σ_k s_k v_k‖² of every replica, rebuilt row by row; differentiable in codes and directions."""
    lead, (*_, n, size) = codes.shape[:-2], stack.weights.shape
    by_replica = zip(
        codes.reshape(-1, *codes.shape[-2:]), stack.weights.reshape(-1, n, size), strict=True
    )
    values: list[Any] = [_Energy.apply(c, w, stack.layout) for c, w in by_replica]
    return torch.stack(values).view(lead)


@torch.no_grad()
def through_gram(
    codes: Float[Tensor, "*replica row subnetwork"], stack: Stack
) -> Float[Tensor, "*replica row subnetwork"]:
    """S V Vᵀ: the inner products of what codes rebuild with the directions."""
    if gram_fits(stack):
        return codes @ stack.gram()
    if codes.dim() > 2:
        pairs = zip(codes, stack.weights, strict=True)
        return torch.stack([through_gram(c, Stack(stack.layout, w)) for c, w in pairs])
    out = torch.zeros_like(codes)
    for t, rows in _parts(stack.layout, codes):
        rebuilt = _rebuilt(t, codes[rows], stack)
        for some in _chunks(len(stack.weights), t, codes):
            out[rows, some] += rebuilt @ _dense(t, stack.select(some)).mT
    return out


class _Energy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, codes: Tensor, weights: Tensor, layout: Layout) -> Tensor:
        ctx.save_for_backward(codes, weights)
        ctx.layout = layout
        stack = Stack(layout, weights)
        parts = [
            _rebuilt(t, codes[rows], stack).square().sum() for t, rows in _parts(layout, codes)
        ]
        return torch.stack(parts).sum()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None]:
        codes, weights = ctx.saved_tensors
        of_codes, of_weights = torch.zeros_like(codes), torch.zeros_like(weights)
        for t, rows in _parts(ctx.layout, codes):
            slope = 2 * grad_outputs[0] * _rebuilt(t, codes[rows], Stack(ctx.layout, weights))
            for some in _chunks(len(weights), t, codes):
                leaf = weights[some].detach().requires_grad_(True)
                with torch.enable_grad():
                    dense = _dense(t, Stack(ctx.layout, leaf))
                of_codes[rows, some] += slope @ dense.detach().mT
                to_dense = codes[rows, some].mT @ slope
                of_weights[some] += torch.autograd.grad(dense, leaf, to_dense)[0]
        return of_codes, of_weights, None


def _rebuilt(t: TensorLayout, codes: Tensor, stack: Stack) -> Float[Tensor, "row entry"]:
    """Σ_k s_k v_k of one tensor in full."""
    rebuilt = codes.new_zeros(len(codes), t.numel)
    for some in _chunks(len(stack.weights), t, codes):
        rebuilt.addmm_(codes[:, some], _dense(t, stack.select(some)))
    return rebuilt


def _dense(t: TensorLayout, stack: Stack) -> Float[Tensor, "direction entry"]:
    return compose(t, stack.pieces()[t.name]).reshape(len(stack.weights), -1)


def _parts(layout: Layout, codes: Tensor) -> Iterator[tuple[TensorLayout, slice]]:
    """Tensor by tensor as many rows as fit when they are rebuilt in full."""
    return ((t, rows) for t in layout.tensors for rows in _chunks(len(codes), t, codes))


def _chunks(n: int, t: TensorLayout, like: Tensor) -> list[slice]:
    """Ranges of so many that all in full stay below `LARGEST_GRAM`."""
    step = max(1, LARGEST_GRAM // (t.numel * like.element_size()))
    return [slice(start, start + step) for start in range(0, n, step)]
