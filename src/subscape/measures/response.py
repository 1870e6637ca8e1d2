"""How far outputs move when a subnetwork of a measured run, or two together, are pushed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from subscape._checks import problem, require
from subscape.data import Samples, n_samples
from subscape.divergences import DIVERGENCES, Divergence
from subscape.measures.control import random_like
from subscape.measures.record import Measures, number
from subscape.measures.rows import RowSet, outputs_at
from subscape.measures.selectivity import grid, mean_of, sweep
from subscape.rows import generator_of
from subscape.subnetworks.decomposition import Decomposition
from subscape.subnetworks.editing import Deltas, displacement
from subscape.targets import Target

N_OTHERS = 64
"""Rows drawn at random."""
Curve = tuple[float | None, ...]
"""A mean change of outputs at every δ; None where an output is not finite."""


@dataclass(frozen=True)
class Response:
    """Mean changes of outputs as one subnetwork is pushed."""

    subnetwork: int
    """Which one."""
    delta: tuple[float, ...]
    """How far."""
    relevant: Curve
    """Of its top samples."""
    drawn_at_random: Curve
    """Of rows drawn at random."""
    random_direction: Curve
    """Of its top samples, pushed along a random direction of the same norm and rank."""
    unit: str
    """Of all these."""


@dataclass(frozen=True)
class JointResponse:
    """Mean changes of the outputs of both's top samples as two subnetworks are pushed together."""

    subnetwork: int
    """The first."""
    beside: int
    """The second."""
    delta: tuple[float, ...]
    """How far either."""
    change: tuple[Curve, ...]
    """A curve over the second's δ for every δ of the first."""
    unit: str
    """Of the changes."""


def response(
    decomposition: Decomposition,
    measures: Measures,
    target: Target,
    data: Samples,
    subnetwork: int,
    deltas: Sequence[float],
    tensors: Sequence[str] = ("*",),
) -> Response:
    """Push one subnetwork, in some or all tensors, over the data that were measured."""
    divergence = _divergence(measures)
    direction = displacement(decomposition.directions, {subnetwork: 1.0}, tensors)
    control = random_like(decomposition.directions).select(subnetwork).dense()
    rows = top_rows(measures, subnetwork)
    both = rows.joined(drawn(target, data, tokens=rows.position is not None))
    relevant = torch.arange(len(both)) < len(rows)
    change = sweep(target, data, both, direction, deltas, divergence).change
    control = {name: control[name] for name in direction}
    chance = sweep(target, data, rows, control, deltas, divergence).change
    return Response(
        subnetwork,
        tuple(deltas),
        relevant=mean_of(change, relevant),
        drawn_at_random=mean_of(change, ~relevant),
        random_direction=mean_of(chance, torch.ones(len(rows), dtype=torch.bool)),
        unit=divergence.unit,
    )


def joint_response(
    decomposition: Decomposition,
    measures: Measures,
    target: Target,
    data: Samples,
    subnetworks: tuple[int, int],
    deltas: Sequence[float],
    tensors: Sequence[str] = ("*",),
) -> JointResponse:
    """Push two subnetworks over all pairs of δ."""
    divergence = _divergence(measures)
    one, two = (displacement(decomposition.directions, {k: 1.0}, tensors) for k in subnetworks)
    first, second = (top_rows(measures, k) for k in subnetworks)
    rows = first.joined(second)
    base = outputs_at(target, data, rows)
    change = [
        tuple(number(divergence(cell, base).mean().item()) for cell in line)
        for line in grid(target, data, rows, one, two, deltas)
    ]
    return JointResponse(*subnetworks, tuple(deltas), tuple(change), divergence.unit)


@dataclass(frozen=True)
class Shift:
    """How far an edit moves the outputs of some rows, beside random directions of the same norms and ranks."""

    rows: str
    """Which rows, in words."""
    change: float | None
    """Mean change of their outputs; None where one is not finite."""
    random: float | None
    """The same along the random directions."""
    unit: str
    """Of both."""


def shifts(
    decomposition: Decomposition,
    target: Target,
    deltas: Deltas,
    tensors: Sequence[str] = ("*",),
    *,
    data: Samples | None = None,
    measures: Measures | None = None,
) -> list[Shift]:
    """What an edit does to rows of the data drawn at random, and to the top samples of what it moves."""
    divergence = DIVERGENCES[decomposition.settings.get("divergence", "mse")].of_changes
    control = random_like(decomposition.directions)
    edit, beside = (
        displacement(stack, deltas, tensors) for stack in (decomposition.directions, control)
    )
    places: dict[str, tuple[Samples, RowSet]] = {}
    for k in deltas if measures is not None else ():
        if measures is not None and measures[k].top_samples:
            places[f"top samples of {k}"] = kept(measures), among_kept(measures, k)
    if data is not None:
        tokens = decomposition.settings.get("rows", "sample") != "sample"
        others = drawn(target, data, tokens=tokens)
        places[f"{len(others)} rows drawn at random"] = data, others
    found = []
    for name, (samples, rows) in places.items():
        base = outputs_at(target, samples, rows)
        moved = (
            sweep(target, samples, rows, way, [1.0], divergence, base=base).change.mean().item()
            for way in (edit, beside)
        )
        found.append(Shift(name, *map(number, moved), unit=divergence.unit))
    return found


def kept(measures: Measures) -> Samples:
    """The samples that the measures keep, as the model takes them."""
    inputs = {k: v for k, v in measures.samples.items() if k not in ("index", "labels")}
    return inputs.get("inputs", inputs)


def among_kept(measures: Measures, index: int) -> RowSet:
    """A subnetwork's top rows, by their place among the samples that the measures keep."""
    rows, places = top_rows(measures, index), measures.samples["index"]
    return RowSet(torch.searchsorted(places, rows.samples), rows.position)


def top_rows(measures: Measures, index: int) -> RowSet:
    """The rows that a subnetwork matters most for; refuses one that matters for none."""
    top = measures[index].top_samples
    if not top:
        got = f"{index}, which has no impact on any row"
        raise ValueError(problem("subnetwork", "one with top samples", got))
    position = [row.position for row in top]
    return RowSet(
        torch.tensor([row.sample for row in top]),
        None if position[0] is None else torch.tensor(position),
    )


def drawn(target: Target, data: Samples, *, tokens: bool) -> RowSet:
    """Rows drawn at random."""
    generator = generator_of(0, 13)
    samples = torch.randperm(n_samples(data), generator=generator)[:N_OTHERS]
    if not tokens:
        return RowSet(samples, None)
    length = target.outputs(RowSet(samples[:1]).inputs(data, target)).shape[1]
    return RowSet(samples, torch.randint(0, length, (len(samples),), generator=generator))


def _divergence(measures: Measures) -> Divergence:
    """What the measures count changes in; the authors' variant is no distance, so theirs is mse."""
    require(
        measures.divergence in DIVERGENCES,
        "run",
        f"measures in one of the divergences {list(DIVERGENCES)}",
        f"a function of your own, {measures.divergence}",
        "Use subscape.measures.sweep in Python.",
    )
    return DIVERGENCES[measures.divergence].of_changes
