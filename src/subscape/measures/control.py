"""Random directions of the same shape as a subnetwork: the control beside every intervention."""

from __future__ import annotations

import torch

from subscape.lowrank import Stack, initial_stack
from subscape.rows import generator_of


def random_like(stack: Stack, seed: int = 0) -> Stack:
    """Random directions with the ranks of a stack and its norm in every tensor.

    Equal length over all tensors together would not do: a direction that lies in one small tensor moves
    outputs differently from one spread over all.
    """
    lead = tuple(stack.weights.shape[:-1])
    drawn = initial_stack(stack.layout, lead, generator_of(seed, 11), stack.weights)
    tiny = torch.finfo(stack.weights.dtype).tiny
    factor = stack.norms() / drawn.norms().clamp_min(tiny)
    pieces, parts = drawn.pieces(), []
    for place, tensor in enumerate(stack.layout.tensors):
        first, *others = pieces[tensor.name]
        scale = factor[..., place].reshape((*lead, *[1] * (first.dim() - len(lead))))
        # Not flatten: the only piece of a 0-d tensor has no axis beyond the leading ones.
        parts += [piece.reshape(*lead, -1) for piece in (first * scale, *others)]
    return Stack(stack.layout, torch.cat(parts, -1))
