"""One subnetwork pushed: outputs moved, sweep, selectivity, beside its impact."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from subscape._shapes import Bool
from subscape.data import Samples
from subscape.divergences import Divergence
from subscape.lowrank import Stack
from subscape.measures.impact import Impact, TopRows
from subscape.measures.output_effects import output_effects, top_outputs
from subscape.measures.record import SubnetworkMeasures, TopOutputs, TopSample, number, rounded
from subscape.measures.rows import RowSet, outputs_at
from subscape.measures.selectivity import (
    delta_of_change,
    means,
    selectivity,
    slopes,
    sweep,
    validity_radius,
)
from subscape.targets import Target

N_OUTPUTS_OF_ROW = 5
"""Outputs to name of a single row at most, increased and decreased each."""


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
    logits: bool
    """Whether outputs are logits, of which only probabilities matter."""


def card(
    scene: Scene,
    index: int,
    direction: Stack,
    control: Stack,
    found: Impact,
    idle: Bool[Tensor, " row"],
) -> SubnetworkMeasures:
    """Measure one subnetwork, all but its partners.

    `idle` says which of the scene's other rows it does not matter for. What needs top rows, an impact or
    irrelevant rows is None without them.
    """
    target, data, divergence = scene.target, scene.data, scene.divergence
    top, v = found.top[index], direction.dense()
    rows = top.rows
    made = SubnetworkMeasures(
        index=index,
        impact=rounded(float(found.mean[index])),
        impact_signed=rounded(float(found.signed[index])),
        impact_normalised=number(float(found.normalised[index])),
        active_rate=rounded(float(found.active_rate[index])),
        tensors=tuple(map(rounded, direction.norms().square().tolist())),
        top_samples=_top_samples(top),
    )
    if len(rows) == 0 or float(top.impact.max()) == 0:
        return made
    effects = output_effects(target, data, rows, v)
    if effects.dim() == 2:
        n = scene.n_outputs
        logits = outputs_at(target, data, rows) if scene.logits else None
        each = [None] * len(rows) if logits is None else logits.split(1)
        outputs = top_outputs(effects, n, logits=logits)
        few = min(n, N_OUTPUTS_OF_ROW)
        by_row = tuple(
            top_outputs(e, few, logits=own) for e, own in zip(effects.split(1), each, strict=True)
        )
        made = replace(made, top_outputs=outputs, top_samples=_top_samples(top, by_row))
    delta = delta_of_change(target, data, rows, v, divergence, scene.size)
    if math.isnan(delta):
        return made
    both = rows.joined(scene.others.select(idle & ~rows.holds(scene.others)))
    relevant = torch.arange(len(both)) < len(rows)
    sizes = [delta / 2**i for i in range(scene.n_deltas)]
    deltas = [*[-d for d in sizes], 0.0, *reversed(sizes)]
    base = outputs_at(target, data, both)
    reference = base.roll(-1, 0)
    along, beside = (
        sweep(target, data, both, way, deltas, divergence, base=base, reference=reference)
        for way in (v, control.dense())
    )
    ends = [0, len(deltas) - 1]
    chosen = None
    if len(both) > len(rows):
        chosen = selectivity(along.change[ends], relevant, delta, random=beside.change[ends])
    radius = validity_radius(along, slopes(target, data, both, v, divergence, reference))
    return replace(
        made,
        delta=rounded(delta),
        sweep=means(along, beside, relevant),
        selectivity=chosen,
        validity_radius=rounded(radius),
    )


def _top_samples(top: TopRows, outputs: tuple[TopOutputs, ...] = ()) -> tuple[TopSample, ...]:
    n = len(top.rows)
    positions = [None] * n if top.rows.position is None else top.rows.position.tolist()
    impact, signed = (map(rounded, values.tolist()) for values in (top.impact, top.signed))
    samples = top.rows.samples.tolist()
    return tuple(map(TopSample, samples, positions, impact, signed, outputs or [None] * n))
