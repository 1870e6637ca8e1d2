"""What there is to know about one subnetwork beside its impact: outputs moved, sweep, selectivity."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from subscape._shapes import Bool, Float
from subscape.data import Samples
from subscape.divergences import Divergence
from subscape.lowrank import Stack
from subscape.measures.impact import TopRows
from subscape.measures.output_effects import TopOutputs, output_effects, top_outputs
from subscape.measures.rows import RowSet, outputs_at
from subscape.measures.selectivity import (
    Selectivity,
    Sweep,
    delta_of_change,
    selectivity,
    slopes,
    sweep,
    validity_radius,
)
from subscape.targets import Target


@dataclass(frozen=True)
class Scene:
    """What all subnetworks are measured against."""

    target: Target
    """The model and its parameters."""
    data: Samples
    """Samples."""
    divergence: Divergence
    """Between outputs; of an output with itself it must be smallest."""
    others: RowSet
    """Rows drawn at random, of which those without impact are a subnetwork's irrelevant rows."""
    size: float
    """Change of a relevant row's output to aim at."""
    n_deltas: int
    """Sizes of δ of a sweep, each half of the next one, at both signs."""
    n_outputs: int
    """Outputs to name, increased and decreased each."""
    centred: bool
    """Whether outputs are logits, of which only differences matter."""


@dataclass(frozen=True)
class Card:
    """Measures of one subnetwork."""

    index: int
    """Which subnetwork."""
    outputs: tuple[TopOutputs, TopOutputs] | None
    """Outputs most increased and most decreased along +δ, averaged over its top rows."""
    by_row: tuple[tuple[TopOutputs, TopOutputs], ...]
    """The same for every top row alone."""
    delta: float
    """δ at which the outputs of its top rows change by the size aimed at; NaN if they never do."""
    found: Sweep | None
    """Its sweep, over top rows and irrelevant rows."""
    control: Sweep | None
    """The sweep of a random direction of the same norm and rank in every tensor."""
    relevant: Bool[Tensor, " row"]
    """Which rows of the sweeps are its top rows."""
    selectivity: Selectivity | None
    """At ±`delta`."""
    control_selectivity: Selectivity | None
    """The same of the random direction."""
    validity_radius: float
    """Largest δ of the sweep at which gradients still predict it; see `selectivity.validity_radius`."""


def card(
    scene: Scene,
    index: int,
    direction: Stack,
    control: Stack,
    top: TopRows,
    idle: Bool[Tensor, " row"],
) -> Card:
    """Measure one subnetwork.

    Args:
        scene: the rest.
        index: its number.
        direction: v_k, without leading axes.
        control: a random direction beside it.
        top: its rows of largest impact.
        idle: which of the scene's other rows it does not matter for.

    Returns:
        Its measures; parts are None where it has no top rows, no impact or no irrelevant rows.
    """
    target, data = scene.target, scene.data
    v = direction.dense()
    rows = top.rows
    none = Card(
        index,
        None,
        (),
        math.nan,
        None,
        None,
        torch.zeros(0, dtype=torch.bool),
        None,
        None,
        math.nan,
    )
    if len(rows) == 0 or float(top.impact.max()) == 0:
        return none
    outputs, by_row = None, ()
    effects = output_effects(target, data, rows, v)
    if effects.dim() == 2:
        n, centred = scene.n_outputs, scene.centred
        outputs = top_outputs(effects, n, centred=centred)
        by_row = tuple(top_outputs(e[None], min(n, 5), centred=centred) for e in effects)
    delta = delta_of_change(target, data, rows, v, scene.divergence, scene.size)
    idle_rows = scene.others.select(idle & ~rows.holds(scene.others))
    both = rows.joined(idle_rows)
    relevant = torch.arange(len(both)) < len(rows)
    if math.isnan(delta):
        return Card(index, outputs, by_row, delta, None, None, relevant, None, None, math.nan)
    sizes = [delta / 2**i for i in range(scene.n_deltas)]
    deltas = [*[-d for d in sizes], 0.0, *reversed(sizes)]
    base = outputs_at(target, data, both)
    reference = base.roll(-1, 0)
    found = sweep(target, data, both, v, deltas, scene.divergence, base=base, reference=reference)
    chance = sweep(
        target,
        data,
        both,
        control.dense(),
        deltas,
        scene.divergence,
        base=base,
        reference=reference,
    )
    ends = [0, len(deltas) - 1]
    chosen, beside = (
        selectivity(s.change[ends], relevant, delta) if len(idle_rows) else None
        for s in (found, chance)
    )
    radius = validity_radius(found, slopes(target, data, both, v, scene.divergence, reference))
    return Card(index, outputs, by_row, delta, found, chance, relevant, chosen, beside, radius)


def mean_of(values: Float[Tensor, "delta row"], which: Bool[Tensor, " row"]) -> list[float | None]:
    """The mean change of some rows at every δ; None where one of them is not finite."""
    means = values[:, which].mean(1).tolist() if bool(which.any()) else [math.nan] * len(values)
    return [m if math.isfinite(m) else None for m in means]
