"""What a network does when directions or edges of its interaction graph are taken away.

An ablated direction takes its mean. An ablated edge lets one direction see another at its mean while
others still see it as it is, which needs a run of the section for every distinct row of the mask.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from subscape._checks import require
from subscape._shapes import Bool, Float
from subscape.interaction_basis.basis import LayerBasis
from subscape.interaction_basis.chain import Chain, Section
from subscape.interaction_basis.score import Scored
from subscape.interaction_basis.sections import Affine

FLAT = 2
"""Scores in a row after which a curve that is flat goes straight to its end."""


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


def through_edges(
    section: Section,
    basis: LayerBasis,
    next_basis: LayerBasis,
    mask: Bool[Tensor, "next_direction direction"],
    coordinates: Float[Tensor, "... direction"],
) -> Float[Tensor, "..."]:
    """Run a section on coordinates, so that each next direction sees only what the mask leaves it."""
    rest = next_basis.encode(section(basis.decode(torch.zeros_like(coordinates[:1]))))
    if isinstance(section, Affine):
        weight = basis.back @ section.weight.double() @ next_basis.into
        return coordinates @ (weight * mask.mT).to(coordinates) + rest
    out = rest.expand(len(coordinates), *rest.shape[1:]).clone()
    rows, which = mask.unique(dim=0, return_inverse=True)
    back, into = basis.back.to(coordinates), next_basis.into.to(coordinates)
    mean, next_mean = basis.mean.to(coordinates), next_basis.mean.to(coordinates)
    for number, row in enumerate(rows):
        if not row.any():
            continue
        to = (which == number).nonzero()[:, 0]
        values = section(mean + coordinates[..., row] @ back[row])
        out[..., to] = (values - next_mean) @ into[:, to]
    return out


def through_edges_by_loop(
    section: Section,
    basis: LayerBasis,
    next_basis: LayerBasis,
    mask: Bool[Tensor, "next_direction direction"],
    coordinates: Float[Tensor, "... direction"],
) -> Float[Tensor, "..."]:
    """The same by one run of the section for every next direction. The oracle."""
    columns = [
        next_basis.encode(section(basis.decode(coordinates * row)))[..., to]
        for to, row in enumerate(mask)
    ]
    return torch.stack(columns, -1)


def with_edges(
    chain: Chain,
    layer: int,
    basis: LayerBasis,
    next_basis: LayerBasis,
    mask: Bool[Tensor, "next_direction direction"],
) -> Section:
    """The network when one section keeps only the edges of the mask."""

    def run(inputs: Tensor) -> Tensor:
        coordinates = basis.encode(chain.nodes(inputs, layer)[-1])
        passed = through_edges(chain.sections[layer], basis, next_basis, mask, coordinates)
        return chain.tail(layer + 1, next_basis.decode(passed))

    return run


def score_with_edges(
    chain: Chain,
    layer: int,
    basis: LayerBasis,
    next_basis: LayerBasis,
    mask: Bool[Tensor, "next_direction direction"],
    on: Scored,
) -> float:
    """Score when one section keeps only the edges of the mask."""
    return on.of(with_edges(chain, layer, basis, next_basis, mask))


def score_with_directions(
    chain: Chain, layer: int, basis: LayerBasis, n_kept: int, on: Scored
) -> float:
    """Score when a node layer keeps its first directions, the rest take their mean; all pass unchanged."""
    require(0 <= n_kept <= basis.width, "n_kept", f"0 to {basis.width} directions", n_kept)

    def run(inputs: Tensor) -> Tensor:
        values = chain.nodes(inputs, layer)[-1]
        if n_kept < basis.width:
            first = basis.encode(values)[..., :n_kept]
            values = basis.mean.to(values) + first @ basis.back[:n_kept].to(values)
        return chain.tail(layer, values)

    return on.of(run)


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
    return _curve(numbers, lambda n: score_with_directions(chain, layer, basis, n, on), flat)


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
    if n_kept is None:
        n_kept = [2**k for k in range(edges.numel().bit_length())] + [edges.numel()]
    pair = bases[layer], bases[layer + 1]

    def score(n: int) -> float:
        return score_with_edges(chain, layer, *pair, largest_edges(edges, n), on)

    return _curve(sorted({0, *n_kept}), score, flat)


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
