"""What a network does when directions or edges of its interaction graph are taken away.

An ablated direction takes its mean. Of the edges of a section the largest are kept; the others let one direction
see another at its mean (see `passing.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from subscape._checks import require
from subscape._shapes import Bool, Float
from subscape.interaction_basis.basis import LayerBasis
from subscape.interaction_basis.chain import Chain
from subscape.interaction_basis.passing import passage, through_edges
from subscape.interaction_basis.score import Scored
from subscape.interaction_basis.sections import Affine

FLAT = 2
"""Scores in a row after which a curve that is flat goes straight to its end."""
REMEMBERED = 2**26
"""Numbers that earlier masks of a section may leave in memory."""


def never(score: float) -> bool:
    """No score is flat: every point of a curve is measured."""
    return False


def largest_edges(edges: Float[Tensor, "row column"], k: int) -> Bool[Tensor, "row column"]:
    """The k largest edges, and all that tie with the smallest of them."""
    if k <= 0:
        return torch.zeros_like(edges, dtype=torch.bool)
    if k >= edges.numel():
        return torch.ones_like(edges, dtype=torch.bool)
    return edges >= edges.flatten().topk(k).values[-1]


class LargestEdges:
    """Scores of a network one of whose sections keeps only its largest edges.

    What a next direction gets depends on how many edges it keeps, the largest of its own. The masks of a bisection
    or a curve differ for few directions, so that what earlier ones gave is remembered, batch by batch.
    """

    def __init__(
        self,
        chain: Chain,
        layer: int,
        bases: tuple[LayerBasis, ...],
        edges: Float[Tensor, "next_direction direction"],
        on: Scored,
    ) -> None:
        self.edges, self.on = edges, on
        basis, self._next = bases[layer : layer + 2]
        self._bases = basis, self._next
        self._section = chain.sections[layer]
        self.one_product = isinstance(self._section, Affine)
        """Whether any mask costs no more than one matrix product."""
        self._after = lambda values: chain.tail(layer + 1, values)
        here = on.at(chain, layer).inputs
        self._coordinates = basis.encode(here).split(on.batch_size)
        self._passage = passage(self._section, basis, self._next, here)
        self._places = replace(on, inputs=torch.arange(len(here)))
        self._columns: list[dict[tuple[int, int], Tensor]] = [{} for _ in self._coordinates]
        self._scores: dict[int, float] = {}

    def score(self, k: int) -> float:
        """With the k largest edges kept."""
        k = min(k, self.edges.numel())
        if k not in self._scores:
            self._scores[k] = self._places.of(self._run(k))
        return self._scores[k]

    def if_within(self, k: int, base: float, tolerance: float) -> float | None:
        """The score if it is at most `tolerance` worse than the base, else None, maybe early."""
        k = min(k, self.edges.numel())
        if k not in self._scores:
            score = self._places.if_within(self._run(k), base, tolerance)
            if score is None:
                return None
            self._scores[k] = score
        score = self._scores[k]
        return score if self.on.score.within(score, base, tolerance) else None

    def _run(self, k: int) -> Callable[[Tensor], Tensor]:
        mask = largest_edges(self.edges, k)
        counts = list(enumerate(mask.sum(1).tolist()))

        def run(places: Tensor) -> Tensor:
            batch = int(places[0]) // self.on.batch_size
            return self._after(self._next.decode(self._passed(batch, mask, counts)))

        return run

    def _passed(self, batch: int, mask: Tensor, counts: list[tuple[int, int]]) -> Tensor:
        coordinates = self._coordinates[batch]
        if self.one_product:
            return through_edges(self._section, *self._bases, mask, coordinates)
        known = self._columns[batch]
        new = [to for to, n in counts if (to, n) not in known]
        if (len(known) + len(new)) * coordinates[..., 0].numel() > REMEMBERED / len(self._columns):
            known.clear()
            new = list(range(len(mask)))
        columns = self._passage.columns(mask, coordinates, new) if new else {}
        known.update({counts[to]: column for to, column in columns.items()})
        return torch.stack([known[key] for key in counts], -1)


def score_with_directions(
    chain: Chain, layer: int, basis: LayerBasis, n_kept: int, on: Scored
) -> float:
    """Score when a node layer keeps its first directions, the rest take their mean; all pass unchanged."""
    return _directions(chain, layer, basis, on)(n_kept)


def node_curve(
    chain: Chain,
    layer: int,
    basis: LayerBasis,
    on: Scored,
    n_kept: list[int] | None = None,
    flat: Callable[[float], bool] = never,
) -> list[tuple[int, float]]:
    """Scores over the number of directions of a node layer kept: pairs (directions kept, score).

    `n_kept` is by default 0 to 10 and then grows by a quarter a step. Where `flat` holds for two scores in a row,
    only the last number is still measured.
    """
    numbers = growing(basis.rank) if n_kept is None else n_kept
    return _curve(numbers, _directions(chain, layer, basis, on), flat)


def edge_curve(
    chain: Chain,
    layer: int,
    bases: tuple[LayerBasis, ...],
    edges: Float[Tensor, "row column"],
    on: Scored,
    n_kept: list[int] | None = None,
    flat: Callable[[float], bool] = never,
) -> list[tuple[int, float]]:
    """Scores over the number of edges of one section kept, the largest first: pairs (edges kept, score).

    `n_kept` is by default powers of two, and all; `flat` as for `node_curve`.
    """
    return curve_of(LargestEdges(chain, layer, bases, edges, on), n_kept, flat)


def curve_of(
    kept: LargestEdges, n_kept: list[int] | None = None, flat: Callable[[float], bool] = never
) -> list[tuple[int, float]]:
    """`edge_curve` of a section some scores of which may be there."""
    n = kept.edges.numel()
    if n_kept is None:
        n_kept = [2**k for k in range(n.bit_length())] + [n]
    return _curve(sorted({0, *n_kept}), kept.score, flat)


def _directions(chain: Chain, layer: int, basis: LayerBasis, on: Scored) -> Callable[[int], float]:
    """From the number of directions kept to the score."""
    here = on.at(chain, layer)
    coordinates = replace(on, inputs=basis.encode(here.inputs))
    mean, back = basis.mean.to(here.inputs), basis.back.to(here.inputs)

    def score(n_kept: int) -> float:
        require(0 <= n_kept <= basis.width, "n_kept", f"0 to {basis.width} directions", n_kept)
        if n_kept == basis.width:
            return here.of(lambda values: chain.tail(layer, values))
        first = back[:n_kept]
        return coordinates.of(lambda some: chain.tail(layer, mean + some[..., :n_kept] @ first))

    return score


def _curve(
    numbers: list[int], score: Callable[[int], float], flat: Callable[[float], bool]
) -> list[tuple[int, float]]:
    points: list[tuple[int, float]] = []
    for n in numbers:
        if n != numbers[-1] and len(points) >= FLAT and all(flat(s) for _, s in points[-FLAT:]):
            continue
        points.append((n, score(n)))
    return points


def growing(most: int, *, every: int = 10, factor: float = 1.25) -> list[int]:
    """0 to `every`, then growing steps up to `most`."""
    numbers = list(range(min(every, most) + 1))
    while numbers[-1] < most:
        numbers.append(min(most, max(numbers[-1] + 1, int(numbers[-1] * factor))))
    return numbers
