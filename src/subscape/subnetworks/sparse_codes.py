"""The best sparse codes of rows in given directions, from inner products alone.

Per row, orthogonal least squares: add the direction that explains most together with those already taken. Then a
budget of active directions is spread over the rows by gain per direction, best first, as batch top-k spreads it.
No encoder is asked: this is what the directions are worth.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from subscape._shapes import Float, Int

SMALL_PIVOT = 1e-10
"""A unit direction whose part outside the chosen ones has a smaller square is taken to lie in their span."""


class Pursuit(NamedTuple):
    """Directions added to rows one by one."""

    explained: Float[Tensor, "row size"]
    """Energy explained with 0, 1, … directions."""
    chosen: Int[Tensor, "row step"]
    """Which direction is added in every step; void where nothing is left to gain."""


def pursuit(
    inner: Float[Tensor, "row direction"],
    gram: Float[Tensor, "direction direction"],
    largest: int,
    *,
    without: int | None = None,
) -> Pursuit:
    """Orthogonal least squares with up to `largest` directions a row, if need be without one of them.

    Gram-Schmidt in the space of inner products: u_1, u_2, … is the orthonormal basis of a row's chosen
    directions, `basis[i]` holds ⟨u_i, t_l⟩ for every l.
    """
    residual = inner.clone()
    outside = gram.diagonal().expand_as(inner).clone()
    if without is not None:
        outside[:, without] = 0
    explained, steps = [inner.new_zeros(len(inner))], []
    basis: list[Tensor] = []
    for _ in range(largest):
        gain = torch.where(outside > SMALL_PIVOT, residual.square() / outside, 0.0)
        gain, chosen = gain.max(1, keepdim=True)
        explained.append(explained[-1] + gain[:, 0])
        steps.append(chosen[:, 0])
        along = gram[chosen[:, 0]]
        for u in basis:
            along = along - u.gather(1, chosen) * u
        # Where nothing is left to gain the step is void.
        pivot = outside.gather(1, chosen)
        unit = torch.where(gain > 0, along / pivot.clamp(min=SMALL_PIVOT).sqrt(), 0.0)
        step = residual.gather(1, chosen) / pivot.clamp(min=SMALL_PIVOT).sqrt()
        residual = residual - torch.where(gain > 0, step, 0.0) * unit
        outside = outside - unit.square()
        basis.append(unit)
    none = torch.zeros(len(inner), 0, dtype=torch.long, device=inner.device)
    return Pursuit(torch.stack(explained, dim=1), torch.stack(steps, dim=1) if steps else none)


def codes_of(
    inner: Float[Tensor, "row direction"],
    gram: Float[Tensor, "direction direction"],
    chosen: Int[Tensor, "row step"],
    n_active: Int[Tensor, " row"],
) -> Float[Tensor, "row direction"]:
    """Least-squares codes of every row in its first `n_active` chosen directions."""
    size = int(n_active.max())
    at = chosen[:, :size]
    active = torch.arange(size, device=inner.device) < n_active[:, None]
    within = gram[at[:, :, None], at[:, None, :]] * active[:, :, None] * active[:, None, :]
    within = within + torch.diag_embed((~active).to(inner.dtype))
    values = torch.linalg.solve(within, inner.gather(1, at) * active)
    # A void step may name a direction twice; what is not active adds zero.
    return torch.zeros_like(inner).scatter_add(1, at, values * active)


def spread(explained: Float[Tensor, "row size"], budget: int) -> Int[Tensor, " row"]:
    """Spread a budget of active directions over rows, best gain per direction first."""
    n_sizes = explained.shape[1] - 1
    # Stable and row by row: the steps of a row stay in order and those of a joint gain together.
    order = slopes(explained).flatten().sort(descending=True, stable=True)
    taken = order.indices[: max(budget, 0)][order.values[: max(budget, 0)] > 0]
    return torch.bincount(taken // n_sizes, minlength=len(explained))


def slopes(explained: Float[Tensor, "row size"]) -> Float[Tensor, "row step"]:
    """The gain of every further direction, never growing along a row.

    A row's gains need not fall with size (two directions may help only together), so they are replaced by
    the slopes of their concave hull: min over a ≤ i of max over b ≥ i of the mean gain of steps a..b.
    """
    n_sizes = explained.shape[1] - 1
    found = torch.empty_like(explained[:, 1:])
    for i in range(n_sizes):
        ends = torch.arange(i + 1, n_sizes + 1, device=explained.device)
        means = [(explained[:, ends] - explained[:, [a]]) / (ends - a) for a in range(i + 1)]
        found[:, i] = torch.stack([m.amax(1) for m in means]).amin(0)
    return found
