"""Where training starts: the middles of clusters of training rows.

A few gradient steps from random directions end in whatever they meet first: on a block of a convolutional
network the k-means centres of its rows, untrained, reconstruct held-out rows better than what random directions
were trained to. So every subnetwork starts at a cluster: k-means of the unit rows by their cosines (Dhillon and
Modha 2001), which needs no more of the rows than their inner products; and the layout's nearest low-rank form of
each middle.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from subscape._shapes import Float
from subscape.gradients import GradientSource, RowGradients
from subscape.gradients.source import KEPT, bytes_of
from subscape.lowrank import Layout, Stack
from subscape.lowrank.project import project
from subscape.lowrank.stack import unit
from subscape.rows import generator_of

ROWS_PER_CLUSTER, MOST_ROWS = 50, 2048
"""How many rows are clustered: so many for each, and not more than these together, of which all are kept."""
DENSE_BUDGET = 64 * 2**20
"""Bytes of middles that are made in full at once."""
MOST_ROUNDS = 30


@torch.no_grad()
def clustered(
    source: GradientSource, start: Stack, batch_size: int, micro_batch_size: int | None = None
) -> Stack:
    """Directions [restart, subnetwork] at clusters of a source's rows; those beyond them as they were.

    Every restart has clusters of its own draw, of the rows of the first steps.
    """
    n_restarts, n = start.weights.shape[:2]
    parts = _rows_of(source, ROWS_PER_CLUSTER * n, batch_size, micro_batch_size)
    gram = torch.cat([torch.cat([a.gram(b) for b in parts], dim=1) for a in parts])
    norms = gram.diagonal().clamp_min(0).sqrt()
    alive = (norms > 0).nonzero()[:, 0]
    if not len(alive):
        return start
    scale = norms[alive].reciprocal()
    cosines = gram[alive][:, alive].double() * scale * scale[:, None]
    weights = start.weights.clone()
    for restart in range(n_restarts):
        own = middles(cosines, min(n, len(alive)), generator_of(source.seed, 5, restart))
        mix = norms.new_zeros(len(own), len(norms))
        mix[:, alive] = own.to(mix) * scale
        weights[restart, : len(own)] = combined(parts, mix, start.layout).weights
    return Stack(start.layout, weights)


def _rows_of(
    source: GradientSource, n_rows: int, batch_size: int, micro_batch_size: int | None
) -> list[RowGradients]:
    """Gradients of the first steps' rows, as many as may be kept."""
    n_steps = -(-min(MOST_ROWS, n_rows) // batch_size)
    parts: list[RowGradients] = []
    for step in range(n_steps):
        rows = source.rows(step, batch_size)
        parts.append(source.gradients(rows, micro_batch_size=micro_batch_size))
        if bytes_of(parts[0]) * (step + 2) > KEPT:
            break
    return parts


def combined(parts: Sequence[RowGradients], mix: Tensor, layout: Layout) -> Stack:
    """Unit directions nearest to Σ_i w_i g_i, for every line of weights over the rows of all parts."""
    of_parts = mix.split([part.n_rows for part in parts], dim=1)
    at_once = max(1, DENSE_BUDGET // (layout.n_parameters * mix.element_size()))
    weights = []
    for first in range(0, len(mix), at_once):
        some = slice(first, first + at_once)
        dense = sum(p.combined(w[some]) for p, w in zip(parts, of_parts, strict=True))
        assert isinstance(dense, Tensor)
        weights.append(unit(project(layout, dense)).weights)
    return Stack(layout, torch.cat(weights))


def middles(
    cosines: Float[Tensor, "row row"], n: int, generator: Generator
) -> Float[Tensor, "cluster row"]:
    """k-means of unit vectors by cosine, begun as k-means++: each cluster's unit middle as weights of rows."""
    n_rows = len(cosines)
    chosen = [int(torch.randint(n_rows, (1,), generator=generator))]
    nearest = cosines[chosen[0]].clone()
    for _ in range(n - 1):
        far = (1 - nearest).clamp_min(0)
        far[chosen] = 0
        if far.sum() <= 0:  # all rows lie at those chosen: any others
            far = torch.ones_like(far).index_fill(0, torch.tensor(chosen, device=far.device), 0)
        drawn = torch.rand(1, generator=generator, dtype=torch.float64).to(far.device)
        at = int(torch.searchsorted(far.cumsum(0), drawn * far.sum()).clamp_max(n_rows - 1))
        chosen.append(at)
        nearest = torch.maximum(nearest, cosines[at])
    weights = torch.nn.functional.one_hot(torch.tensor(chosen), n_rows).to(cosines)
    labels = None
    for _ in range(MOST_ROUNDS):
        to_middles = weights @ cosines
        best, new = to_middles.max(0)
        if labels is not None and bool((new == labels).all()):
            break
        labels = new
        members = torch.nn.functional.one_hot(labels, n).mT.to(cosines)
        # An empty cluster takes the row that is farthest from its middle.
        for k in (members.sum(1) == 0).nonzero()[:, 0].tolist():
            row = int(best.argmin())
            members[:, row] = 0
            members[k, row] = 1
            best[row] = 1
        weights = members / ((members @ cosines) * members).sum(1, keepdim=True).sqrt()
    return weights
