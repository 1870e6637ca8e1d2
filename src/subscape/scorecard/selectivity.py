"""Does pushing a subnetwork move the rows it is for, and leave the others alone?"""

from __future__ import annotations

from statistics import fmean, median
from typing import NamedTuple

import torch

from subscape.measures.record import Measures
from subscape.measures.selectivity import spread
from subscape.rows import generator_of
from subscape.scorecard.case import Case
from subscape.scorecard.pushes import Scene, middle, n_top_of, pushed
from subscape.scorecard.record import Column, Section, left_out, line, section

NATS, SHARE = 0.1, 0.1
"""Change to aim at: of logits in nats, of other outputs as a share of the median divergence of two rows."""


class Pushed(NamedTuple):
    """The section, with what another one needs of it."""

    section: Section
    """Figures."""
    delta: float | None
    """Median δ of the subnetworks."""


def selectivity(case: Case, measures: Measures | None) -> Pushed:
    """Beside random directions, pushed on their own top rows; with what was measured before."""
    if not aim_of(case) > 0:
        return Pushed(left_out("selectivity", "all rows have the same output"), None)
    scene = Scene.of(case.held.source, case.held.samples, aim_of(case))
    order = torch.randperm(len(case.decomposition), generator=generator_of(case.config.seed, 42))[
        : case.config.n_pushed
    ]
    lines, deltas = [], []
    for name, one in (("subnetworks", case.decomposition), ("random directions", case.chance)):
        sizes = case.held.inner(one.encoder).abs()[:, order]
        found = pushed(scene, one.directions.select(order), sizes)
        lines.append(
            line(name, *middle(found), len(found) / len(order), ours=one is case.decomposition)
        )
        deltas.append([p.delta for p in found])
    columns = (
        Column("ratio", "high"),
        Column("AUROC", "high"),
        Column("share", "high", True),
        Column("could be pushed", "", True),
    )
    unit = case.held.source.divergence.of_changes.unit
    notes = [
        f"{len(order)} of them, each until the median change of its {n_top_of(len(scene.place))} top rows is "
        f"{scene.aim:.3g} {unit}; medians. Ratio: of the median change of these and of "
        "the others; share: of all change that falls on them."
    ]
    return Pushed(
        section("selectivity", columns, lines, (*notes, *measured(measures))),
        median(deltas[0]) if deltas[0] else None,
    )


def aim_of(case: Case) -> float:
    """Median change of top rows to aim at."""
    source = case.held.source
    if source.divergence.logits:
        return NATS
    some = case.held.samples[:64]
    return SHARE * spread(source.outputs_at(source.rows_of(some)), source.divergence.of_changes)


def measured(measures: Measures | None) -> list[str]:
    """What `subscape measure` found, in words."""
    if measures is None:
        return []
    both = [
        (s.auroc, s.auroc_random)
        for entry in measures
        if not entry.standing and (s := entry.selectivity) is not None
    ]
    known = [(a, b) for a, b in both if a is not None and b is not None]
    if not known:
        return []
    ours, random = (fmean(values) for values in zip(*known, strict=True))
    return [
        f"subscape measure: AUROC {ours:.2f}, of random directions on the same rows {random:.2f} "
        f"(means over {len(known)} subnetworks)."
    ]
