"""How many edges of a section a network needs to stay within a tolerance of its score.

Bisection over the number of edges kept, the largest first. Scores need not be monotone in it: then the
count is one crossing of the tolerance, the one that the published bisection finds too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from subscape._checks import require
from subscape._progress import bar
from subscape.interaction_basis.ablation import largest_edges, score_with_edges
from subscape.interaction_basis.basis import LayerBasis
from subscape.interaction_basis.chain import Chain
from subscape.interaction_basis.graph import InteractionGraph
from subscape.interaction_basis.score import Scored

Midpoint = Literal["linear", "log"]


@dataclass(frozen=True)
class EdgesRequired:
    """The result for one section."""

    n_edges: int
    """Edges required; those of the constant direction are free and not counted."""
    threshold: float
    """The smallest of them."""
    score: float
    """With these edges only."""
    base: float
    """Of the whole network."""
    n_total: int
    """Edges that there could be, in the widths of the node layers and with the constant direction."""
    tried: tuple[tuple[int, float], ...]
    """All pairs (edges kept, score) on the way."""


def bisect(good: Callable[[int], bool], total: int, midpoint: Midpoint = "linear") -> int:
    """Smallest number that is good, if all larger ones are; `total` is taken to be, and 0 is never tried.

    `linear` halves the interval as published, `log` the ratio, with fewer large numbers.
    """
    low, high = 0, total
    while high - low > 1:
        if midpoint == "log":
            middle = min(high - 1, max(low + 1, round((max(low, 1) * high) ** 0.5)))
        else:
            # The published code bisects the number taken away and rounds that down.
            middle = high - (high - low) // 2
        if good(middle):
            high = middle
        else:
            low = middle
    return high


def edges_required(
    chain: Chain,
    graph: InteractionGraph,
    layer: int,
    on: Scored,
    tolerance: float,
    *,
    base: float | None = None,
    midpoint: Midpoint = "linear",
) -> EdgesRequired:
    """Find the number of edges of one section (`layer`) that the network needs, with the scores on the way.

    The score may get worse by `tolerance` from `base`, that of the network as it is (None: to be measured).

    Raises:
        ValueError: if all edges together are not enough.
    """
    require(tolerance >= 0, "tolerance", "a number of at least 0", tolerance)
    basis, next_basis = graph.bases[layer : layer + 2]
    edges = graph.edges[layer]
    base = on.base(chain) if base is None else base
    tried: dict[int, float] = {}

    def score(k: int) -> float:
        k = min(k, edges.numel())
        if k not in tried:
            mask = largest_edges(edges, k)
            tried[k] = score_with_edges(chain, layer, basis, next_basis, mask, on)
        return tried[k]

    total, every = count_edges(basis, next_basis), score(edges.numel())
    require(
        on.score.within(every, base, tolerance),
        "tolerance",
        f"one that all edges of {basis.name!r} together satisfy",
        f"{tolerance}, while {on.score.name} is {base:.6g} and with all edges {every:.6g}",
        "The directions that were dropped matter: lower rtol, or raise the tolerance.",
    )
    n_edges = bisect(lambda k: on.score.within(score(k), base, tolerance), total, midpoint)
    n_edges = min(n_edges, edges.numel())
    # An edge of 0 may be needed only for ties; it is no threshold for the others.
    needed = edges.flatten().topk(n_edges).values
    smallest = float(needed[needed > 0].amin()) if bool((needed > 0).any()) else 0.0
    score_then = score(n_edges)
    return EdgesRequired(n_edges, smallest, score_then, base, total, tuple(sorted(tried.items())))


def all_edges_required(
    chain: Chain,
    graph: InteractionGraph,
    on: Scored,
    tolerance: float,
    *,
    midpoint: Midpoint = "linear",
    progress: bool = False,
) -> list[EdgesRequired]:
    """Find the number for every section; the arguments are those of `edges_required`."""
    same = {"base": on.base(chain), "midpoint": midpoint}
    layers = bar("edges required", range(len(chain)), progress=progress)
    return [edges_required(chain, graph, n, on, tolerance, **same) for n in layers]


def count_edges(basis: LayerBasis, next_basis: LayerBasis) -> int:
    """Edges there could be; as published, the constant counts as one more direction of rotated layers."""
    raw = next_basis.kind == "raw"
    return (basis.width + 1) * (next_basis.width if raw else next_basis.width + 1)
