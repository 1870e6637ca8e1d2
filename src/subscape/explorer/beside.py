"""Two runs of one model: which subnetworks of one are in the other too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from subscape._checks import require
from subscape.measures.control import random_like
from subscape.measures.record import Measures, rounded
from subscape.measures.rule_names import rule_names
from subscape.report.brief import brief
from subscape.scorecard.compare import cosines, shapes_of
from subscape.subnetworks.decomposition import Decomposition


@dataclass(frozen=True)
class Beside:
    """Another run, to compare with."""

    title: str
    """What it is called."""
    decomposition: Decomposition
    """Of the same parameters."""
    measures: Measures
    """Its measures."""


def beside(decomposition: Decomposition, measures: Measures, other: Beside) -> dict[str, Any]:
    """Of every subnetwork the nearest one there, whether that is mutual, and what it is for; and chance."""
    mine, theirs = decomposition.directions, other.decomposition.directions
    shapes = shapes_of(mine)
    expected = f"a run over the same tensors, {list(shapes)}"
    require(shapes == shapes_of(theirs), "beside", expected, f"{list(shapes_of(theirs))}")
    near = cosines(mine, theirs).abs()
    best, partner = near.max(1)
    back = near.argmax(0)
    chance = cosines(random_like(mine), theirs).abs().amax(1)
    pairs = [
        (k, j, rounded(float(best[k])), int(back[j]) == k) for k, j in enumerate(partner.tolist())
    ]
    names = rule_names(other.measures).names
    shown = sorted({j for _, j, *_ in pairs})
    return {
        "title": other.title,
        "pairs": pairs,
        "chance": rounded(float(chance.median())),
        "cards": {j: {"name": names.get(j, "")} | brief(other.measures, j) for j in shown},
    }
