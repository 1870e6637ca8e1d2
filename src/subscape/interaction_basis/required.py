"""How many edges of a section a network needs to stay within a tolerance of its score.

Bisection over the number of edges kept, the largest first. Scores need not be monotone in it: then the
count is one crossing of the tolerance. Sections that are run once for every next direction are bracketed from
few edges upwards, as few edges cost little and many hardly ever fail; the bisection then goes the published way
between. Scores that cannot come within the tolerance any more are broken off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from subscape._checks import problem, require
from subscape._progress import bar
from subscape.interaction_basis.ablation import LargestEdges
from subscape.interaction_basis.basis import LayerBasis
from subscape.interaction_basis.chain import Chain
from subscape.interaction_basis.graph import InteractionGraph
from subscape.interaction_basis.score import Scored

Midpoint = Literal["linear", "log"]

ABOVE = 1 + 1e-9
"""Times the largest edge is a threshold that no edge reaches."""


@dataclass(frozen=True)
class EdgesRequired:
    """The result for one section."""

    n_edges: int
    """Edges required; those of the constant direction are free and not counted."""
    threshold: float
    """The smallest of them; just above all edges where none is required."""
    score: float
    """With these edges only."""
    base: float
    """Of the whole network."""
    n_total: int
    """Edges that there could be, in the widths of the node layers and with the constant direction."""
    tried: tuple[tuple[int, float], ...]
    """Pairs (edges kept, score) on the way that are within the tolerance."""


def bisect(
    good: Callable[[int], bool], total: int, midpoint: Midpoint = "linear", *, low: int = 0
) -> int:
    """Smallest number above `low` that is good, if all larger ones are; `total` is taken to be.

    `linear` halves the interval as published, `log` the ratio, with fewer large numbers.
    """
    high = total
    while high - low > 1:
        middle = _middle(low, high, midpoint)
        if good(middle):
            high = middle
        else:
            low = middle
    return high


def bracket(
    good: Callable[[int], bool], total: int, midpoint: Midpoint = "linear"
) -> tuple[int, int]:
    """Neighbours (bad, good) among the numbers that a bisection from `total` would try, found from 0 upwards.

    Of two good numbers in a row the smaller one ends it, so that one lucky score does not.
    """
    tried = [total]
    while tried[-1] > 1:
        tried.append(_middle(0, tried[-1], midpoint))
    low, in_a_row = 0, []
    for number in reversed(tried):
        if number == total or good(number):
            in_a_row.append(number)
        else:
            low, in_a_row = number, []
        if len(in_a_row) == 2:
            break
    return low, in_a_row[0]


def _middle(low: int, high: int, midpoint: Midpoint) -> int:
    if midpoint == "log":
        return min(high - 1, max(low + 1, round((max(low, 1) * high) ** 0.5)))
    # The published code bisects the number taken away and rounds that down.
    return high - (high - low) // 2


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
    """Find the number of edges of one section (`layer`) that the network needs, which may be none.

    The score may get worse by `tolerance` from `base`, that of the network as it is (None: to be measured).

    Raises:
        ValueError: if all edges together are not enough.
    """
    kept = LargestEdges(chain, layer, graph.bases, graph.edges[layer], on)
    base = on.base(chain) if base is None else base
    return required_of(kept, graph.bases[layer : layer + 2], base, tolerance, midpoint)


def required_of(
    kept: LargestEdges,
    bases: Sequence[LayerBasis],
    base: float,
    tolerance: float,
    midpoint: Midpoint = "linear",
) -> EdgesRequired:
    """`edges_required` of a section some scores of which may be there; `bases` are on both sides of it."""
    require(tolerance >= 0, "tolerance", "a number of at least 0", tolerance)
    edges, total = kept.edges, count_edges(*bases)
    tried: dict[int, float | None] = {}

    def score(k: int) -> float | None:
        k = min(k, edges.numel())
        if k not in tried:
            tried[k] = kept.if_within(k, base, tolerance)
        return tried[k]

    def good(k: int) -> bool:
        return score(k) is not None

    if not good(edges.numel()):
        reached = kept.score(edges.numel())
        raise ValueError(
            problem(
                "tolerance",
                f"one that all edges of {bases[0].name!r} together satisfy",
                f"{tolerance}, while {kept.on.score.name} is {base:.6g} and with all edges {reached:.6g}",
                "The directions that were dropped matter: lower rtol, or raise the tolerance.",
            )
        )
    low, high = 0, total
    if not kept.one_product:
        low, high = bracket(good, total, midpoint)
    n_edges = min(bisect(good, high, midpoint, low=low), edges.numel())
    if n_edges == 1 and good(0):
        n_edges = 0
    # An edge of 0 may be needed only for ties; it is no threshold for the others.
    needed = edges.flatten().topk(n_edges).values
    needed = needed[needed > 0]
    threshold = float(needed.amin() if len(needed) else ABOVE * edges.max())
    score_then = score(n_edges)
    assert score_then is not None
    known = ((k, value) for k, value in sorted(tried.items()) if value is not None)
    return EdgesRequired(n_edges, threshold, score_then, base, total, tuple(known))


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
