"""Directions made of row gradients: principal ones and k-means centres, from inner products alone.

A direction is a line of weights over the rows it is fitted on, Σ_j w_j h_j, so that no direction is ever built,
whatever the number of parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from subscape._shapes import Float
from subscape.measures.oracle import principal_weights
from subscape.rows import generator_of

ROUNDS = 30
"""Of k-means, at most."""


@dataclass(frozen=True)
class Span:
    """Unit directions Σ_j w_j h_j."""

    weights: Float[Tensor, "row direction"]
    """Of every row in every direction."""
    gram: Float[Tensor, "direction direction"]
    """Between the directions."""

    @classmethod
    def of(cls, weights: Float[Tensor, "row direction"], gram: Float[Tensor, "row row"]) -> Span:
        """Of unit length, from the inner products of the rows; directions without length are dropped."""
        own = weights.mT @ gram @ weights
        length = own.diagonal().clamp_min(0).sqrt()
        real = length > 1e-10 * length.max()
        length = length[real]
        return cls(weights[:, real] / length, own[real][:, real] / torch.outer(length, length))

    def inner(self, cross: Float[Tensor, "other row"]) -> Float[Tensor, "other direction"]:
        """Inner products with other rows, from those of the rows."""
        return cross @ self.weights


def principal(gram: Float[Tensor, "row row"], n: int) -> Span:
    """The first principal directions, uncentred; fewer where gradients span fewer."""
    # What the gradients were made in: rounding of theirs is not taken for a direction.
    weights = principal_weights(gram, n, torch.float32)
    return Span.of(weights, gram)


def centres(gram: Float[Tensor, "row row"], n: int, seed: int = 0) -> Span:
    """Centres of k-means among the gradients scaled to unit length (Lloyd, started at random rows)."""
    length = gram.diagonal().clamp_min(0).sqrt()
    alive = (length > 1e-10 * length.max()).nonzero()[:, 0]
    cosine = gram[alive][:, alive] / torch.outer(length[alive], length[alive])
    start = torch.randperm(len(alive), generator=generator_of(seed, 41))[:n].to(gram.device)
    weights = torch.zeros(len(alive), len(start), dtype=gram.dtype, device=gram.device)
    weights[start, torch.arange(len(start), device=gram.device)] = 1.0
    before = torch.full((len(alive),), -1, device=gram.device)
    for _ in range(ROUNDS):
        with_rows = cosine @ weights
        size = (weights * with_rows).sum(0)
        nearest = (size - 2 * with_rows).argmin(1)
        if bool((nearest == before).all()):
            break
        before = nearest
        member = torch.nn.functional.one_hot(nearest, len(start)).to(gram)
        count = member.sum(0)
        # A centre that nobody is nearest to stays where it is.
        weights = torch.where(count > 0, member / count.clamp_min(1), weights)
    every = torch.zeros(len(gram), len(start), dtype=gram.dtype, device=gram.device)
    every[alive] = weights / length[alive][:, None]
    return Span.of(every, gram)
