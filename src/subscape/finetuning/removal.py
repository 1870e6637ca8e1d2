"""Take a behaviour away by moving along one subnetwork, as far as needed and no further."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from subscape._checks import problem, require
from subscape._html import Printed
from subscape._shapes import Float
from subscape.data import Samples, as_samples, n_samples, take, to_device
from subscape.divergences import DIVERGENCES, MSE
from subscape.finetuning.line_search import line_search
from subscape.finetuning.losses import movement
from subscape.finetuning.steered import SteeredModel
from subscape.measures.kept import check_vocabulary
from subscape.subnetworks.decomposition import Decomposition
from subscape.targets import Outputs, Target

Score = Callable[[Tensor, Any], Tensor]
"""`(outputs, batch) -> numbers`: how much of the behaviour is there, 0 for none; any number of them a batch."""
BATCH = 64
"""Samples of a forward pass."""


@dataclass(frozen=True)
class Removal(Printed):
    """How far to move, and what that does."""

    subnetwork: int
    """Along which one."""
    delta: float
    """How far; 0 where no move takes anything away within the bound."""
    before: float
    """Mean score of the model as it is."""
    after: float
    """Mean score at δ."""
    moved_others: float
    """Mean divergence there of the others' rows from the model's own outputs."""
    unit: str
    """Of the divergence."""
    reached: bool
    """Whether no more is left than was asked for."""

    @property
    def deltas(self) -> dict[int, float]:
        """As `Decomposition.edit` and `save_lora` take it."""
        return {self.subnetwork: self.delta}

    def __str__(self) -> str:
        return (
            f"subnetwork {self.subnetwork} by {self.delta:+.4g}: score {self.before:.4g} → {self.after:.4g}"
            f"{'' if self.reached else ' (more is left than was asked for)'}, "
            f"others moved by {self.moved_others:.3g} {self.unit} a row"
        )


def remove(
    found: Decomposition,
    model: nn.Module | Target,
    subnetwork: int,
    data: Any,
    score: Score,
    *,
    others: Any,
    left: float = 0.05,
    most: float = math.inf,
    outputs: Outputs | None = None,
) -> Removal:
    """Move a model along one subnetwork until little is left of a behaviour; by forward passes only.

    Example::

        removal = subscape.remove(found, model, 17, triggered, probability, others=texts, most=0.01)
        with found.edit(model, removal.deltas):
            model(inputs)

    Which subnetwork it is, `subscape.contrast` says.

    Args:
        found: the decomposition.
        model: the model it was made for, or its `Target`; left as it is.
        subnetwork: along which one.
        data: inputs that show the behaviour.
        score: `(outputs, batch) -> numbers`, how much of it there is, such as the probability of an answer.
        others: inputs whose outputs are to stay as they are.
        left: share of the mean score that may be left.
        most: mean divergence of the others' rows that is allowed.
        outputs: as for `Target`.

    Returns:
        The move of least damage that does it; if none does, the one that takes most away within `most`.

    Raises:
        ValueError: if the model is another one, or there is no behaviour to take away.
        IndexError: if there is no such subnetwork.
    """
    require(0 <= left < 1, "left", "a share from 0 to below 1", left)
    require(most > 0, "most", "a divergence above 0", most)
    steered = SteeredModel(found, model, [subnetwork], outputs=outputs)
    wanted, rest = as_samples(data), as_samples(others)
    for given in (wanted, rest):
        check_vocabulary(steered.target, given)
    divergence = DIVERGENCES.get(str(found.settings.get("divergence")), MSE).of_changes

    @torch.no_grad()
    def score_at(delta: float) -> float:
        steered.coefficients.fill_(delta)
        values = [_scores(score, steered.outputs(part), part) for part in _parts(steered, wanted)]
        return float(torch.cat(values).mean())

    with torch.no_grad():
        own = [(part, steered.target.called(part)) for part in _parts(steered, rest)]

    @torch.no_grad()
    def moved_at(delta: float) -> float:
        steered.coefficients.fill_(delta)
        rows = [movement(divergence, steered.outputs(part), at, part) for part, at in own]
        return float(torch.cat(rows).mean())

    before = score_at(0.0)
    require(
        math.isfinite(before) and before > 0,
        "score",
        "a mean above 0 on data that show the behaviour",
        f"{before:.4g}",
        "It is to be taken away: give what there is of it.",
    )
    best = line_search(
        lambda delta: (1 - score_at(delta) / before, moved_at(delta)), aim=1 - left, most=most
    )
    return Removal(
        subnetwork=steered.subnetworks[0],
        delta=best.size,
        before=before,
        after=(1 - best.effect) * before,
        moved_others=best.damage,
        unit=divergence.unit,
        reached=best.effect >= 1 - left,
    )


def _parts(steered: SteeredModel, samples: Samples) -> list[Samples]:
    device = steered.coefficients.device
    return [
        to_device(take(samples, part), device)
        for part in torch.arange(n_samples(samples)).split(BATCH)
    ]


def _scores(score: Score, outputs: Tensor, batch: Samples) -> Float[Tensor, " number"]:
    """What a user's function says of a batch, as one axis."""
    values = score(outputs, batch)
    if not isinstance(values, Tensor):
        got = type(values).__name__
        raise TypeError(problem("score", "a tensor of numbers", got, "Do not convert it."))
    return values.reshape(-1).double()
