"""Two runs of one model: which subnetworks of one are in the other too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from subscape._checks import require
from subscape._shapes import Float
from subscape.lowrank import Stack
from subscape.measures.control import random_like
from subscape.measures.record import Measures, TopSample, rounded
from subscape.measures.rule_names import rule_names
from subscape.report.build import shown_sample
from subscape.subnetworks.decomposition import Decomposition

AT_ONCE = 64
"""Directions made dense at once."""
N_CONTEXTS = 3
SPAN = (5, 2)
"""Tokens shown before and after."""
N_MOVED = 3


@dataclass(frozen=True)
class Beside:
    """Another run, to compare with."""

    title: str
    """What it is called."""
    decomposition: Decomposition
    """Of the same parameters."""
    measures: Measures
    """Its measures."""


def cosines(one: Stack, other: Stack) -> Float[Tensor, "one other"]:
    """Cosines of unit directions over the same tensors, whatever their ranks."""
    mine, theirs = ({t.name: t.shape for t in stack.layout.tensors} for stack in (one, other))
    require(
        mine == theirs, "beside", f"a run over the same tensors, {list(mine)}", f"{list(theirs)}"
    )
    each = [torch.arange(len(stack.weights)).split(AT_ONCE) for stack in (one, other)]
    return torch.cat([
        torch.cat([one.select(i).flat() @ other.select(j).flat().mT for j in each[1]], 1)
        for i in each[0]
    ])


def beside(decomposition: Decomposition, measures: Measures, other: Beside) -> dict[str, Any]:
    """Of every subnetwork the nearest one there, whether that is mutual, and what it is for; and chance."""
    mine, theirs = decomposition.directions, other.decomposition.directions
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
        "cards": {j: {"name": names.get(j, "")} | _card(other.measures, j) for j in shown},
    }


def _card(measures: Measures, index: int) -> dict[str, Any]:
    entry, names = measures[index], measures.names
    top = entry.top_samples[:N_CONTEXTS]
    moved = entry.top_outputs
    return {
        "contexts": [c for row in top if (c := _context(measures, row))],
        "images": [image for row in top if (image := _image(measures, row))],
        "up": [names.output(i) for i, _ in moved.up[:N_MOVED]] if moved else [],
        "down": [names.output(i) for i, _ in moved.down[:N_MOVED]] if moved else [],
    }


def _place(measures: Measures, row: TopSample) -> int:
    return int(torch.searchsorted(measures.samples["index"], row.sample))


def _context(measures: Measures, row: TopSample) -> tuple[str, str, str] | None:
    if row.position is None or "input_ids" not in measures.samples or not measures.names.tokens:
        return None
    ids = measures.samples["input_ids"][_place(measures, row)].tolist()
    texts, at = [measures.names.token(i) for i in ids], row.position
    before, after = texts[max(0, at - SPAN[0]) : at], texts[at + 1 : at + 1 + SPAN[1]]
    return "".join(before), texts[at], "".join(after)


def _image(measures: Measures, row: TopSample) -> str | None:
    inputs = measures.samples.get("inputs")
    return None if inputs is None else shown_sample(inputs[_place(measures, row)]).get("image")
