"""Communities of highest modularity: many Louvain searches side by side, on one graph or on many.

Every search moves one node at a time, each in an order of its own, to the community that gains most
modularity; then communities take the place of nodes; then single nodes move again, until nothing gains. All
searches take their steps together, as one operation on [search, node].
"""

from __future__ import annotations

import torch
from torch import Tensor

from subscape._shapes import Float, Int

GAIN = 1e-12
"""Least gain of a move, as a share of all weight; less is rounding."""
MOST_SWEEPS = 100
"""Over all nodes, or rounds of communities; a search ends long before."""
SPREAD = 2**24
"""Numbers in the matrices of the searches that run together, at most."""


def modularity(
    weights: Float[Tensor, "*batch node node"],
    labels: Int[Tensor, "*batch node"],
    resolution: float,
) -> Float[Tensor, "*batch"]:
    """Newman's modularity: sum over communities of W_c / W - resolution (degree_c / 2W)^2."""
    same = labels[..., :, None] == labels[..., None, :]
    degree = weights.sum(-1)
    total = degree.sum(-1)
    within = (weights * same).sum((-1, -2)) / total
    expected = torch.einsum("...i,...j,...ij->...", degree, degree, same.to(weights))
    return within - resolution * expected / total.square()


@torch.no_grad()
def searches(
    weights: Float[Tensor, "graph node node"], n_starts: int, resolution: float, seed: int
) -> tuple[Int[Tensor, "graph start node"], Float[Tensor, "graph start"]]:
    """Partitions that so many searches of every graph end in, and their modularity.

    Weights are symmetric with zeros on the diagonal. Labels are numbers below that of nodes.
    """
    generator = torch.Generator().manual_seed(seed)
    n_graphs, n = weights.shape[:2]
    which = torch.arange(n_graphs).repeat_interleave(n_starts)
    labels, scores = [], []
    for some in which.split(max(1, SPREAD // max(1, n * n))):
        labels.append(_louvain(weights, some, resolution, generator))
        scores.append(modularity(weights[some], labels[-1], resolution))
    shape = (n_graphs, n_starts)
    return torch.cat(labels).reshape(*shape, n), torch.cat(scores).reshape(shape)


def _louvain(
    weights: Tensor, which: Tensor, resolution: float, generator: torch.Generator
) -> Tensor:
    """Labels [search, node]; `which` graph every search is of."""
    n = weights.shape[-1]
    labels = torch.arange(n).expand(len(which), n).contiguous()
    going = torch.arange(len(which))
    for _ in range(MOST_SWEEPS):
        moved = _moved(weights, which[going], labels[going], resolution, generator)
        joined = _joined(weights[which[going]], moved, resolution, generator)
        changed = (joined != labels[going]).any(1)
        labels[going] = joined
        going = going[changed]
        if not len(going):
            break
    return labels


def _joined(
    weights: Tensor, labels: Tensor, resolution: float, generator: torch.Generator
) -> Tensor:
    """Communities as nodes of smaller graphs, moved until nothing gains; labels of the nodes in the end."""
    each = torch.arange(len(labels))
    for _ in range(MOST_SWEEPS):
        labels = _renumbered(labels)
        n = int(labels.max()) + 1
        member = torch.nn.functional.one_hot(labels, n).to(weights)
        whole = member.mT @ weights @ member
        start = torch.arange(n).expand(len(labels), n).contiguous()
        moved = _moved(whole, each, start, resolution, generator)
        if torch.equal(moved, start):
            return labels
        labels = moved.gather(1, labels)
    return labels


def _moved(
    weights: Tensor, which: Tensor, labels: Tensor, resolution: float, generator: torch.Generator
) -> Tensor:
    """Move single nodes, in random order, until a sweep moves none."""
    labels = labels.clone()
    going = torch.arange(len(labels))
    degrees = weights.sum(-1)
    for _ in range(MOST_SWEEPS):
        of, mine = which[going], labels[going]
        moved = _sweep(weights, degrees, of, mine, resolution, generator)
        labels[going] = mine
        going = going[moved]
        if not len(going):
            break
    return labels


def _sweep(
    weights: Tensor,
    degrees: Tensor,
    which: Tensor,
    labels: Tensor,
    resolution: float,
    generator: torch.Generator,
) -> Tensor:
    """Move every node once where that gains, in `labels`; whether any moved, by search."""
    n_searches, n = labels.shape
    rows = torch.arange(n_searches)
    degree = degrees[which]
    total = degree.sum(-1)
    share, least = resolution / total, GAIN * total
    inside = torch.zeros_like(degree).scatter_add_(1, labels, degree)
    loops = weights.diagonal(dim1=-2, dim2=-1)[which]
    ever = torch.zeros(n_searches, dtype=torch.bool)
    for node in torch.rand(n_searches, n, generator=generator).argsort(1).T:
        at, mine = labels[rows, node], degree[rows, node]
        gain = torch.zeros_like(degree).scatter_add_(1, labels, weights[which, node])
        # A node's loop goes with it wherever it goes.
        gain[rows, at] -= loops[rows, node]
        inside[rows, at] -= mine
        gain -= (mine * share)[:, None] * inside
        most, best = gain.max(1)
        better = most > gain[rows, at] + least
        at = torch.where(better, best, at)
        labels[rows, node] = at
        inside[rows, at] += mine
        ever |= better
    return ever


def _renumbered(labels: Tensor) -> Tensor:
    """Communities of every search as 0, 1, ... without gaps."""
    there = torch.zeros_like(labels).scatter_(1, labels, 1)
    return (there.cumsum(1) - 1).gather(1, labels)
