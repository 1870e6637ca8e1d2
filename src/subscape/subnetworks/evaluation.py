"""FVU, L0 and active rates of dictionaries over rows that were not trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from subscape._checks import require
from subscape._html import Printed
from subscape._shapes import Float
from subscape.gradients.row_gradients import RowProducts
from subscape.gradients.source import GradientSource
from subscape.rows import Rows
from subscape.subnetworks.dictionary import Dictionary, Products, Reconstruction

DEAD_RATE = 1e-4
"""A subnetwork that is active in at most this share of the evaluation rows is called dead."""


@dataclass(frozen=True, repr=False)
class Evaluation(Printed):
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

    def __repr__(self) -> str:
        figures = {"FVU": self.fvu, "L0": self.l0, "dead": self.dead}
        shown = [f"{name} {_few(values)}" for name, values in figures.items()]
        return f"Evaluation({', '.join(shown)} on {self.n_rows:,} rows)"

    @property
    def active_scalars(self) -> Float[Tensor, "*replica"]:
        """Mean number of coefficients per row: the L0 times the directions of a subnetwork."""
        return self.active_rate.sum(-1)

    @property
    def dead(self) -> Float[Tensor, "*replica"]:
        """Share of subnetworks active in at most `DEAD_RATE` of the rows."""
        return (self.active_rate <= DEAD_RATE).to(self.active_rate.dtype).mean(-1)


def _few(values: Float[Tensor, "*replica"]) -> str:
    return " ".join(f"{v:.3g}" for v in values.flatten().tolist())


def evaluate(
    source: GradientSource, dictionary: Dictionary, *, alone: bool = False, **amount: Any
) -> Evaluation:
    """Pool reconstruction over batches of a source, best of rows not trained on.

    `n_rows` is rounded up to whole batches of `batch_size`, cut to the rows there are, over which a batch-wise
    selection selects; with `alone` it selects row by row.

    Raises:
        ValueError: if all gradients are zero.
    """
    return evaluate_together([(source, dictionary)], alone=alone, **amount)[0]


Pair = tuple[GradientSource, Dictionary]
"""Rows, and what is asked about them."""


def evaluate_together(
    pairs: Sequence[Pair],
    *,
    n_rows: int,
    batch_size: int,
    alone: bool = False,
    micro_batch_size: int | None = None,
) -> list[Evaluation]:
    """`evaluate` for several sources with the same rows: batch by batch, so that they can share passes."""
    sums = [_Sums() for _ in pairs]
    for rows in _batches(pairs[0][0], n_rows, batch_size):
        asked = _asked(pairs, rows, micro_batch_size)
        for own, (_, dictionary), given in zip(sums, pairs, asked, strict=True):
            own.add(dictionary.reconstruct(given, alone=alone), len(rows))
    return [own.evaluation(d.selection.group_size) for own, (_, d) in zip(sums, pairs, strict=True)]


class _Sums:
    """What an evaluation is made of."""

    def __init__(self) -> None:
        self.error = self.total = self.active = torch.zeros(())
        self.by_batch: list[Tensor] = []
        self.n_rows = 0

    def add(self, batch: Reconstruction, n_rows: int) -> None:
        """One more batch."""
        self.error, self.total = self.error + batch.error, self.total + batch.total
        self.by_batch.append(batch.fvu)
        self.active = self.active + (batch.codes != 0).sum(-2).double()
        self.n_rows += n_rows

    def evaluation(self, group_size: int) -> Evaluation:
        """The figures over all batches."""
        check_not_zero(self.total)
        rate, n_rows = self.active / self.n_rows, self.n_rows
        # A batch without any gradient has no FVU.
        of_batches = torch.stack(self.by_batch).nanmean(0)
        return Evaluation(
            self.error / self.total, rate.sum(-1) / group_size, rate, n_rows, of_batches
        )


def calibrate(dictionary: Dictionary, source: GradientSource, **amount: Any) -> None:
    """`calibrate_together` for one source."""
    calibrate_together([(source, dictionary)], **amount)


@torch.no_grad()
def calibrate_together(
    pairs: Sequence[Pair], *, n_rows: int, batch_size: int, micro_batch_size: int | None = None
) -> None:
    """Set the threshold from which a subnetwork counts as active when rows are encoded one by one.

    And the signs, which training leaves to chance: along +v the divergence of the rows that a direction is for
    rises. Its third moment leaves the say to the largest coefficients.
    """
    coefficients: list[list[Tensor]] = [[] for _ in pairs]
    for rows in _batches(pairs[0][0], n_rows, batch_size):
        if pairs[0][0].ranks.size > 1:
            ((source, dictionary),) = pairs  # blocks are not shared out over processes
            gradients = source.shared(rows, micro_batch_size=micro_batch_size)
            coefficients[0].append(gradients.inner(dictionary.encoder))
            continue
        for part in rows.micro_batches(micro_batch_size):
            for kept, (source, dictionary) in zip(coefficients, pairs, strict=True):
                kept.append(source.gradients(part).inner(dictionary.encoder))
    for kept, (_, dictionary) in zip(coefficients, pairs, strict=True):
        every = torch.cat(kept, dim=-2)
        sign = torch.where(every.pow(3).sum(-2) < 0, -1.0, 1.0).to(every)
        dictionary.turn(sign)
        dictionary.selection.calibrate(every * sign[..., None, :])


def _batches(source: GradientSource, n_rows: int, batch_size: int) -> Iterator[Rows]:
    """Whole batches that are `n_rows` or more together."""
    size = _batch_size(batch_size, source)
    return (source.rows(number, size) for number in range(-(-n_rows // size)))


@torch.no_grad()
def _asked(
    pairs: Sequence[Pair], rows: Rows, micro_batch_size: int | None
) -> Iterator[RowProducts | Products]:
    """The row gradients of every source; of several in parts, what their dictionaries want to know of them."""
    if pairs[0][0].ranks.size > 1:  # blocks are not shared out over processes
        yield pairs[0][0].shared(rows, micro_batch_size=micro_batch_size)
        return
    parts = rows.micro_batches(micro_batch_size)
    if len(parts) == 1:
        yield from (source.gradients(parts[0]) for source, _ in pairs)
        return
    yield from products_together(pairs, parts)


@torch.no_grad()
def products_together(pairs: Sequence[Pair], parts: Sequence[Rows]) -> list[Products]:
    """What every dictionary wants to know of its source's rows: part by part, so that they can share passes."""
    known: list[list[Products]] = [[] for _ in pairs]
    for part in parts:
        for own, (source, dictionary) in zip(known, pairs, strict=True):
            own.append(dictionary.products(source.gradients(part)))
    return [Products.joined(own) for own in known]


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
