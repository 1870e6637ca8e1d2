"""Two runs of one model: which subnetworks of one are in the other too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from subscape._checks import require
from subscape._shapes import Float, Int
from subscape.lowrank import Stack
from subscape.lowrank.products import blocks_of_products
from subscape.measures.control import random_like
from subscape.measures.record import Measures, rounded
from subscape.measures.rule_names import rule_names
from subscape.report.brief import brief
from subscape.scorecard.compare import shapes_of
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
    best, partner = _nearest(mine, theirs)
    back = _nearest(theirs, mine)[1]
    chance = _nearest(random_like(mine), theirs)[0]
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


def _nearest(
    one: Stack, other: Stack
) -> tuple[Float[torch.Tensor, " one"], Int[torch.Tensor, " one"]]:
    """The largest |cosine| of every direction with the others, and which one that is."""
    largest = [rows.abs().max(1) for rows in blocks_of_products(one, other)]
    return torch.cat([m.values for m in largest]), torch.cat([m.indices for m in largest])
