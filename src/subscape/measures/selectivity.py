"""Selectivity: does moving along a subnetwork change the rows it is for, and leave the others alone?

Δ_i(δ) = D(f(x_i, W0 + δ v), f(x_i, W0)) is how much the output of row i changes. A selective subnetwork
has a large Δ on its relevant rows only. Every figure is also taken for a random direction of the same
norm and rank in every tensor (`control`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from subscape._checks import require
from subscape._shapes import Bool, Float
from subscape.data import Samples
from subscape.divergences import Divergence, output_gradient
from subscape.measures.output_effects import output_effects
from subscape.measures.record import Selectivity, SweepMeans, number, rounded
from subscape.measures.rows import Direction, RowSet, moved_by, outputs_at
from subscape.measures.two_sets import auroc
from subscape.targets import Target

N_DOUBLINGS = 40
"""Steps of the search for δ, up and down by factors of two, then by bisection."""
VALID_R2 = 0.9
"""A first-order prediction of at least this R² counts as valid."""


@dataclass(frozen=True)
class Sweep:
    """What happens to the outputs of rows as they are moved along a direction."""

    deltas: tuple[float, ...]
    """δ of every point."""
    change: Float[Tensor, "delta row"]
    """Δ_i(δ) from the model's own output; NaN where the moved output is not finite."""
    drift: Float[Tensor, "delta row"]
    """D(f(x_i, W0 + δ v), y_i) − D(f(x_i, W0), y_i) to a reference; NaN likewise."""


def sweep(
    target: Target,
    data: Samples,
    rows: RowSet,
    direction: Direction,
    deltas: Sequence[float],
    divergence: Divergence,
    *,
    base: Float[Tensor, "row *output"] | None = None,
    reference: Float[Tensor, "row *output"] | None = None,
) -> Sweep:
    """Move along a direction and see how far the outputs go.

    `base` are the model's own outputs at the rows, if they are known; `reference` y_i, by default the output of
    the next row.
    """
    if base is None:
        base = outputs_at(target, data, rows)
    if reference is None:
        reference = base.roll(-1, 0)
    own, before = divergence(base, base), divergence(base, reference)
    change, drift = [], []
    for delta in deltas:
        moved = outputs_at(target, data, rows, moved_by(direction, delta))
        finite = torch.isfinite(moved.flatten(1)).all(1)
        # The row's own output in place of one that is not finite: no warning, no NaN on the way.
        safe = torch.where(finite.view(-1, *[1] * (moved.dim() - 1)), moved, base)
        change.append(torch.where(finite, divergence(safe, base) - own, torch.nan))
        drift.append(torch.where(finite, divergence(safe, reference) - before, torch.nan))
    return Sweep(tuple(deltas), torch.stack(change), torch.stack(drift))


def means(found: Sweep, random: Sweep, relevant: Bool[Tensor, " row"]) -> SweepMeans:
    """The mean changes of relevant and other rows, beside a random direction."""
    return SweepMeans(
        tuple(map(rounded, found.deltas)),
        mean_of(found.change, relevant),
        mean_of(found.change, ~relevant),
        mean_of(random.change, relevant),
    )


def mean_of(
    values: Float[Tensor, "delta row"], which: Bool[Tensor, " row"]
) -> tuple[float | None, ...]:
    """The mean change of some rows at every δ; None where one of them is not finite."""
    return tuple(number(m) for m in values[:, which].mean(1).tolist())


def spread(outputs: Float[Tensor, "row *output"], divergence: Divergence) -> float:
    """The median divergence between the outputs of two different rows: the scale of a large change."""
    n = len(outputs)
    require(n >= 2, "outputs", "at least 2 rows", f"{n}")
    values = [divergence(outputs.roll(s, 0), outputs) for s in range(1, min(n, 9))]
    return torch.cat(values).median().item()


def delta_of_change(
    target: Target,
    data: Samples,
    rows: RowSet,
    direction: Direction,
    divergence: Divergence,
    size: float,
) -> float:
    """The δ at which the mean change of rows, over both signs of δ, reaches `size`.

    δ > 0, within 10 % of the change aimed at where the change is continuous there; NaN if it would have to be
    longer than the parameters themselves, the outputs stop being finite before, or the change aimed at is none.
    """
    if not size > 0:
        return math.nan
    moved = [p for name, p in target.parameters.items() if name in direction]
    limit = torch.stack([p.detach().float().norm() for p in moved]).norm().item()
    base = outputs_at(target, data, rows)

    def change(delta: float) -> float:
        both = sweep(target, data, rows, direction, [delta, -delta], divergence, base=base)
        return both.change.mean().item()

    low, high = 0.0, math.nan
    delta = min(1.0, limit)
    for _ in range(N_DOUBLINGS):
        value = change(delta)
        if abs(value - size) <= 0.1 * size:
            return delta
        if value < size:
            low = delta
        else:  # too far, or not finite any more
            high = delta
        if math.isnan(high):
            if low >= limit:
                return math.nan
            delta = min(2 * low, limit)
        elif low == 0.0:
            delta = high / 2
        else:
            delta = math.sqrt(low * high)
            if high / low < 1.001:
                break
    at = low if low > 0 else high
    return at if change(at) >= 0.5 * size else math.nan


def selectivity(
    change: Float[Tensor, "delta row"],
    relevant: Bool[Tensor, " row"],
    delta: float,
    *,
    random: Float[Tensor, "delta row"] | None = None,
) -> Selectivity:
    """Ratio and AUROC from the changes at +δ and −δ, `random` along a random direction; None if not finite.

    Raises:
        ValueError: if no row is relevant, or all are.
    """
    require(
        bool(relevant.any()) and not bool(relevant.all()),
        "relevant",
        "some relevant rows and some others",
        f"{int(relevant.sum())} of {len(relevant)}",
    )
    ratio, own = _ratio_and_auroc(change.mean(0), relevant)
    chance = None if random is None else _ratio_and_auroc(random.mean(0), relevant)[1]
    return Selectivity(rounded(delta), ratio, own, chance)


def _ratio_and_auroc(
    mean: Float[Tensor, " row"], relevant: Bool[Tensor, " row"]
) -> tuple[float | None, float | None]:
    if not torch.isfinite(mean).all():
        return None, None
    inside, outside = mean[relevant], mean[~relevant]
    return number((inside.mean() / outside.mean()).item()), rounded(auroc(inside, outside))


def slopes(
    target: Target,
    data: Samples,
    rows: RowSet,
    direction: Direction,
    divergence: Divergence,
    reference: Float[Tensor, "row *output"],
) -> Float[Tensor, " row"]:
    """⟨g_i, v⟩, the derivative of every row's divergence along a direction, from ∂f/∂δ."""
    e = output_gradient(divergence, outputs_at(target, data, rows), reference)
    return (e * output_effects(target, data, rows, direction)).flatten(1).sum(1)


def validity_radius(found: Sweep, slope: Float[Tensor, " row"]) -> float:
    """The largest δ of a sweep up to which gradients predict the drift of the divergence.

    R² of δ⟨g_i, v⟩ against D(f(x_i, W0 + δ v), y_i) − D(f(x_i, W0), y_i) over rows, both signs of δ
    together; the radius is the largest |δ| up to which R² stays at `VALID_R2` or above, 0 if none is valid.
    """
    sizes = sorted({abs(d) for d in found.deltas if d})
    radius = 0.0
    for size in sizes:
        places = [i for i, d in enumerate(found.deltas) if abs(d) == size]
        predicted = torch.cat([found.deltas[i] * slope for i in places])
        if not r_squared(predicted, found.drift[places].flatten()) >= VALID_R2:
            break
        radius = size
    return radius


def r_squared(predicted: Float[Tensor, " row"], actual: Float[Tensor, " row"]) -> float:
    """1 − Σ(actual − predicted)² / Σ(actual − mean)²; −inf if the prediction is not finite."""
    if not torch.isfinite(actual).all():
        return -math.inf
    total = (actual - actual.mean()).square().sum().item()
    return 1 - (actual - predicted).square().sum().item() / total if total > 0 else -math.inf


def interaction(
    target: Target,
    data: Samples,
    rows: RowSet,
    first: Direction,
    second: Direction,
    *,
    base: Float[Tensor, "row *output"] | None = None,
) -> float:
    """How far two moves together differ from the sum of each: 0 where they do not meet.

    ‖f(W+a+b) − f(W+a) − f(W+b) + f(W)‖ / (‖f(W+a) − f(W)‖ + ‖f(W+b) − f(W)‖) over all rows, with moves a and b
    that include their δ; NaN if nothing moves or an output is not finite.
    """
    own = outputs_at(target, data, rows) if base is None else base
    moves = first, second, _sum(first, second)
    a, b, both = (outputs_at(target, data, rows, move) - own for move in moves)
    scale, rest = (a.norm() + b.norm()).item(), (both - a - b).norm().item()
    return rest / scale if scale > 0 and math.isfinite(rest) else math.nan


def _sum(first: Direction, second: Direction) -> Direction:
    return {**first, **second, **{n: first[n] + second[n] for n in first if n in second}}


def grid(
    target: Target,
    data: Samples,
    rows: RowSet,
    first: Direction,
    second: Direction,
    deltas: Sequence[float],
) -> Float[Tensor, "first second row *output"]:
    """f(x, W0 + δ₁ v₁ + δ₂ v₂) over all pairs of δ, not checked for being finite."""

    def outputs(one: float, other: float) -> Tensor:
        return outputs_at(target, data, rows, _sum(moved_by(first, one), moved_by(second, other)))

    return torch.stack([torch.stack([outputs(d1, d2) for d2 in deltas]) for d1 in deltas])
