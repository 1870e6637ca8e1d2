"""FVU, L0 and active rates of dictionaries over rows that were not trained on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from subscape._checks import require
from subscape._shapes import Float
from subscape.gradients.source import GradientSource
from subscape.subnetworks.dictionary import Dictionary

DEAD_RATE = 1e-4
"""A subnetwork that is active in at most this share of the evaluation rows is called dead."""


@dataclass(frozen=True)
class Evaluation:
    """What a dictionary reaches on given rows; every field keeps its replica axis."""

    fvu: Float[Tensor, "*replica"]
    """Fraction of variance unexplained, pooled over all rows, uncentred."""
    l0: Float[Tensor, "*replica"]
    """Mean number of active subnetworks per row; a group counts once."""
    active_rate: Float[Tensor, "*replica subnetwork"]
    """P_act: share of rows in which a subnetwork is active."""
    n_rows: int
    """Rows evaluated."""
    fvu_of_batches: Float[Tensor, "*replica"]
    """Mean of every batch's own FVU, as published: all batches count the same, however large their
    gradients."""

    @property
    def active_scalars(self) -> Float[Tensor, "*replica"]:
        """Mean number of coefficients per row: the L0 times the directions of a subnetwork."""
        return self.active_rate.sum(-1)

    @property
    def dead(self) -> Float[Tensor, "*replica"]:
        """Share of subnetworks active in at most `DEAD_RATE` of the rows."""
        return (self.active_rate <= DEAD_RATE).to(self.active_rate.dtype).mean(-1)


def evaluate(
    source: GradientSource,
    dictionary: Dictionary,
    *,
    n_rows: int,
    batch_size: int,
    alone: bool = False,
    micro_batch_size: int | None = None,
) -> Evaluation:
    """Pool reconstruction over batches of a source, best of rows not trained on.

    `n_rows` is rounded up to whole batches of `batch_size`, cut to the rows there are, over which a batch-wise
    selection selects; with `alone` it selects row by row.

    Raises:
        ValueError: if all gradients are zero.
    """
    batch_size = _batch_size(batch_size, source)
    error = total = active = torch.zeros(())
    by_batch: list[Tensor] = []
    n_batches = -(-n_rows // batch_size)
    for number in range(n_batches):
        rows = source.rows(number, batch_size)
        gradients = source.shared(rows, micro_batch_size=micro_batch_size)
        batch = dictionary.reconstruct(gradients, alone=alone)
        error, total = error + batch.error, total + batch.total
        by_batch.append(batch.fvu)
        active = active + (batch.codes != 0).sum(-2).double()
    check_not_zero(total)
    seen = n_batches * batch_size
    # A batch without any gradient has no FVU.
    of_batches = torch.stack(by_batch).nanmean(0)
    l0 = active.sum(-1) / seen / dictionary.selection.group_size
    return Evaluation(error / total, l0, active / seen, seen, of_batches)


@torch.no_grad()
def calibrate(
    dictionary: Dictionary,
    source: GradientSource,
    *,
    n_rows: int,
    batch_size: int,
    micro_batch_size: int | None = None,
) -> None:
    """Set the threshold from which a subnetwork counts as active when rows are encoded one by one.

    And the signs, which training leaves to chance: along +v the divergence of the rows that a direction is for
    rises. Its third moment leaves the say to the largest coefficients.
    """
    batch_size = _batch_size(batch_size, source)
    coefficients = []
    for number in range(-(-n_rows // batch_size)):
        rows = source.rows(number, batch_size)
        gradients = source.shared(rows, micro_batch_size=micro_batch_size)
        coefficients.append(gradients.inner(dictionary.encoder))
    every = torch.cat(coefficients, dim=-2)
    sign = torch.where(every.pow(3).sum(-2) < 0, -1.0, 1.0).to(every)
    dictionary.turn(sign)
    dictionary.selection.calibrate(every * sign[..., None, :])


def check_not_zero(total: Tensor) -> None:
    """Refuse gradients of which all are zero: Σ‖g‖² = 0."""
    require(
        bool((total > 0).all()),
        "gradients",
        "row gradients that are not all zero",
        "only zeros",
        "The outputs do not depend on the chosen parameters, or every row equals its reference.",
    )


def _batch_size(wanted: int, source: GradientSource) -> int:
    """At most the rows there are, in whole samples; at least 2, as a row alone has no partner."""
    per_sample = source.draws.per_sample
    fitting = min(max(2, wanted), source.n_rows)
    return max(per_sample, fitting - fitting % per_sample)
