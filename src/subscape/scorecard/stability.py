"""Whether another run finds the same subnetworks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from subscape._shapes import Float
from subscape.measures.recovery import absolute_cosines, match
from subscape.rows import generator_of
from subscape.scorecard.case import Case, Part, sparse
from subscape.scorecard.record import Column, Section, left_out, line, section
from subscape.subnetworks.decomposition import Decomposition

CORRELATED = 0.7


def stability(case: Case, others: Mapping[str, Decomposition]) -> Section:
    """Codes and directions matched with those of other runs, beside random directions and shuffled rows."""
    if not others:
        return left_out(
            "stability", "no other run to compare with; give one of another seed (--against)"
        )
    ours, directions = case.codes, case.decomposition.directions.flat()
    chance = sparse(case.held.inner(case.chance.encoder), case.l0)
    order = torch.randperm(len(ours), generator=generator_of(case.config.seed, 46)).to(ours.device)
    lines = []
    for name, other in others.items():
        source = other.source(case.target, case.held.source.data, seed=case.held.source.seed)
        theirs = Part(source, case.held.samples, {}).inner(other.encoder)
        with torch.no_grad():
            codes = other.dictionary.selection(theirs)
        flat = other.directions.flat()
        lines += [
            line(f"with {name}", *figures(ours, codes), _cosine(directions, flat), ours=True),
            line(
                "random directions",
                *figures(chance, codes),
                _cosine(case.chance.directions.flat(), flat),
            ),
            line("rows shuffled", *figures(ours, codes[order]), None),
        ]
    columns = (
        Column(f"codes correlated ≥ {CORRELATED}", "high", True),
        Column("mean correlation", "high"),
        Column("mean |cosine|", "high"),
    )
    notes = (
        "Each matched one to one so that the sum is largest; correlation over the rows to score.",
    )
    return section("stability", columns, lines, notes)


def figures(
    codes: Float[Tensor, "row ours"], others: Float[Tensor, "row theirs"]
) -> tuple[float, float]:
    """Share of codes that correlate with those of their match, and the mean of that."""
    correlation = correlations(codes, others).abs()
    matched = correlation[match(correlation)]
    return float((matched >= CORRELATED).double().mean()), float(matched.mean())


def correlations(
    codes: Float[Tensor, "row ours"], others: Float[Tensor, "row theirs"]
) -> Float[Tensor, "ours theirs"]:
    """Correlation of every pair; 0 of a code that never changes."""
    ours, theirs = (v.double() - v.double().mean(0) for v in (codes, others))
    ours, theirs = (v / v.norm(dim=0).clamp_min(1e-30) for v in (ours, theirs))
    return ours.mT @ theirs


def _cosine(
    directions: Float[Tensor, "ours parameter"], others: Float[Tensor, "theirs parameter"]
) -> float:
    cosines = absolute_cosines(directions, others)
    return float(cosines[match(cosines)].mean())
