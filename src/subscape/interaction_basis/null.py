"""Whether a graph is more modular than chance: its edges swapped, degrees kept, and searched the same way.

Two edges of a section change their ends, a -> b and c -> d to a -> d and c -> b, where neither is there yet;
each keeps its weight. Every direction keeps the number of its edges on both sides, and nothing else of who
interacts with whom. An architecture may give more than that without any training: directions of a residual stream
go on as themselves, and those of alike importance mix with each other. What it gives is in `randomised.py`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from subscape._checks import require
from subscape._shapes import Float
from subscape.interaction_basis.louvain import searches

BEYOND = 3.0
"""z from which modules count as more than chance, beside many graphs."""
FEW = 50
"""Graphs up to which it is said that a higher z is needed."""
PER_EDGE = 10
"""Swaps that are tried, for every edge."""
N_STARTS = 10
"""Searches of every swapped graph, and in a group of those of the graph itself."""

Edge = tuple[int, int, float]
"""From, to (of their own node layers) and weight."""


@dataclass(frozen=True)
class Chance:
    """Modularity of a graph beside that of graphs that share all but its modules."""

    modularity: float
    """Of the graph, by as many searches as each of the others got; or by how much it exceeds that of others."""
    mean: float
    deviation: float
    n_graphs: int
    n_higher: int
    """Of them as modular as the graph, or more."""

    @property
    def z(self) -> float:
        """Standard deviations above the mean; 0 where all are alike."""
        return (self.modularity - self.mean) / self.deviation if self.deviation > 0 else 0.0

    @property
    def p(self) -> float:
        """Share of graphs as modular, this one counted in: no less than 1 / (number + 1)."""
        return (self.n_higher + 1) / (self.n_graphs + 1)

    @property
    def needed(self) -> float:
        """Where modules begin to count: z = 3 beside many graphs, more beside few, whose deviation is uncertain.

        Student's t of a new value beside n others where the normal distribution is at 3, by Wallace's formula.
        """
        rest = self.n_graphs - 1
        normal = BEYOND * (8 * rest + 3) / (8 * rest + 1)
        return math.sqrt(rest * math.expm1(normal**2 / rest) * (1 + 1 / self.n_graphs))

    @property
    def beyond(self) -> bool:
        """Whether the modules are more than chance."""
        return self.z >= self.needed

    @property
    def described(self) -> str:
        """In words."""
        few = "" if self.n_graphs > FEW else f" ({self.needed:.1f} needed beside {self.n_graphs})"
        return f"z = {self.z:.1f}{few}, p = {self.p:.2g}"


def chance(modularity: float, others: Sequence[float]) -> Chance:
    """Compare with the modularity of other graphs."""
    require(len(others) >= 2, "n_graphs", "at least 2 graphs to compare with", len(others))
    values = torch.tensor(others, dtype=torch.float64)
    # What rounding makes of graphs that are all alike is no deviation.
    deviation = float(values.std()) if float(values.max() - values.min()) > 1e-9 else 0.0
    higher = int((values >= modularity - 1e-9).sum())
    return Chance(modularity, float(values.mean()), deviation, len(others), higher)


def swapped(edges: Sequence[Edge], seed: int) -> list[Edge]:
    """The edges of one section with their ends swapped at random."""
    draw = random.Random(seed)
    ends = [(a, b) for a, b, _ in edges]
    there = set(ends)
    n = len(ends)
    for _ in range(PER_EDGE * n if n > 1 else 0):
        one, other = draw.randrange(n), draw.randrange(n)
        (a, b), (c, d) = ends[one], ends[other]
        if (a, d) in there or (c, b) in there:
            continue
        there -= {(a, b), (c, d)}
        there |= {(a, d), (c, b)}
        ends[one], ends[other] = (a, d), (c, b)
    return [(a, b, w) for (a, b), (_, _, w) in zip(ends, edges, strict=True)]


def against_swaps(
    sections: Sequence[Sequence[Edge]],
    n_nodes: Sequence[int],
    own: Float[Tensor, " start"],
    *,
    resolution: float,
    seed: int,
    n_graphs: int,
) -> Chance:
    """Compare a graph with its swapped copies.

    `sections` holds the edges of every section, `n_nodes` the directions per node layer, and `own` the modularity
    that searches of the graph itself ended at.
    """
    copies = [
        dense(
            [swapped(edges, seed * 10**6 + 1000 * k + n) for n, edges in enumerate(sections)],
            n_nodes,
        )
        for k in range(n_graphs)
    ]
    _, scores = searches(torch.stack(copies), N_STARTS, resolution, seed)
    # The best of as many searches: the graph itself had more of them, which would be an advantage.
    groups = own[: len(own) - len(own) % N_STARTS].reshape(-1, N_STARTS)
    return chance(float(groups.amax(1).mean()), scores.amax(1).tolist())


def dense(sections: Sequence[Sequence[Edge]], n_nodes: Sequence[int]) -> Float[Tensor, "node node"]:
    """The symmetric matrix of weights, nodes in the order of their layers."""
    first = [sum(n_nodes[:k]) for k in range(len(n_nodes))]
    weights = torch.zeros(sum(n_nodes), sum(n_nodes), dtype=torch.float64)
    for layer, edges in enumerate(sections):
        for a, b, w in edges:
            weights[first[layer] + a, first[layer + 1] + b] = w
    return weights + weights.mT
