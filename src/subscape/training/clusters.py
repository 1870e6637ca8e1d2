"""Where training starts: the middles of clusters of training rows.

A few gradient steps from random directions end in whatever they meet first: on a block of a convolutional
network the k-means centres of its rows, untrained, reconstruct held-out rows better than what random directions
were trained to. So every subnetwork starts at a cluster: k-means of the unit rows by their cosines (Dhillon and
Modha 2001), which needs no more of the rows than their inner products; and the layout's nearest low-rank form of
each middle.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from subscape._shapes import Float
from subscape.gradients import GradientSource, RowGradients
from subscape.gradients.contraction import DENSE_BUDGET
from subscape.gradients.micro_batches import MicroBatches, kept_if_small
from subscape.lowrank import Layout, Stack
from subscape.lowrank.project import project
from subscape.lowrank.stack import unit
from subscape.rows import generator_of, joined

ROWS_PER_CLUSTER, MOST_ROWS = 50, 2048
"""How many rows are clustered: so many for each, and not more than these together."""
MOST_ROUNDS = 30


@torch.no_grad()
def clustered(
    source: GradientSource, start: Stack, batch_size: int, micro_batch_size: int | None = None
) -> Stack:
    """Directions [restart, subnetwork] at clusters of a source's rows; those beyond them as they were.

    Every restart has clusters of its own draw, of the rows of the first steps: which these are does not depend on
    how many are made at once.
    """
    n_restarts, n = start.weights.shape[:2]
    n_steps = -(-min(MOST_ROWS, ROWS_PER_CLUSTER * n) // batch_size)
    rows = joined([source.rows(step, batch_size) for step in range(n_steps)])
    parts = rows.micro_batches(min(batch_size, micro_batch_size or batch_size))
    makers = kept_if_small([lambda part=part: source.gradients(part) for part in parts])
    gradients = MicroBatches(makers, [len(part) for part in parts])
    gram = gradients.gram()
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
        weights[restart, : len(own)] = combined(gradients, mix, start.layout).weights
    return Stack(start.layout, weights)


def combined(gradients: RowGradients, mix: Tensor, layout: Layout) -> Stack:
    """Unit directions nearest to Σ_i w_i g_i, for every line of weights."""
    at_once = max(1, DENSE_BUDGET // (layout.n_parameters * mix.element_size()))
    parts = [unit(project(layout, gradients.combined(some))).weights for some in mix.split(at_once)]
    return Stack(layout, torch.cat(parts))


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
