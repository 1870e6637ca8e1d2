"""FVU, L0 and active rates of stacks over rows that were not trained on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from subscape._checks import problem
from subscape._shapes import Float
from subscape.gradients.source import GradientSource
from subscape.lowrank import Stack
from subscape.subnetworks.objective import reconstruction_error
from subscape.subnetworks.selection import batch_top_k, n_active

DEAD_RATE = 1e-4
"""A subnetwork that is active in at most this share of the evaluation rows is called dead."""


@dataclass(frozen=True)
class Evaluation:
    """What a decomposition reaches on given rows; every field keeps the replica axis of its stacks."""

    fvu: Float[Tensor, "*replica"]
    """Fraction of variance unexplained with batch top-k, pooled over all rows, uncentred."""
    l0: Float[Tensor, "*replica"]
    """Mean number of active subnetworks per row."""
    active_rate: Float[Tensor, "*replica subnetwork"]
    """P_act: share of rows in which a subnetwork is active."""
    n_rows: int
    """Rows evaluated."""
    fvu_of_batches: Float[Tensor, "*replica"]
    """Mean of every batch's own FVU, as published: all batches count the same, however large their
    gradients."""

    @property
    def dead(self) -> Float[Tensor, "*replica"]:
        """Share of subnetworks active in at most `DEAD_RATE` of the rows."""
        return (self.active_rate <= DEAD_RATE).to(self.active_rate.dtype).mean(-1)


def evaluate(
    source: GradientSource,
    encoder: Stack,
    decoder: Stack,
    active_fraction: float,
    *,
    n_rows: int,
    batch_size: int,
    threshold: Float[Tensor, "*replica"] | None = None,
    at_once: int | None = None,
) -> Evaluation:
    """Pool reconstruction over batches of a source.

    Args:
        source: rows to evaluate on, not those of the training.
        encoder: V_in.
        decoder: V_out.
        active_fraction: k of batch top-k.
        n_rows: rows to look at, rounded up to whole batches.
        batch_size: rows per batch top-k; cut to the samples there are.
        threshold: if given, a coefficient is active when its size reaches it, row by row, instead of by
            batch top-k.
        at_once: rows whose gradients may be made at once; None for all of a batch.

    Returns:
        The figures.

    Raises:
        ValueError: if all gradients are zero.
    """
    batch_size = _batch_size(batch_size, source)
    error = total = active = torch.zeros(())
    by_batch: list[Tensor] = []
    n_batches = -(-n_rows // batch_size)
    with torch.no_grad():
        for number in range(n_batches):
            gradients = source.batch_gradients(number, batch_size, at_once=at_once)
            coefficients = gradients.inner(encoder)
            if threshold is None:
                mask = batch_top_k(coefficients, active_fraction)
            else:
                mask = coefficients.abs() >= threshold[..., None, None]
            of_batch = reconstruction_error(gradients, coefficients * mask, decoder).double()
            norm = gradients.squared_norm().sum(-1).double()
            error, total = error + of_batch, total + norm
            by_batch.append(of_batch / norm)
            active = active + mask.sum(-2).double()
    check_not_zero(total)
    seen = n_batches * batch_size
    # A batch without any gradient has no FVU.
    of_batches = torch.stack(by_batch).nanmean(0)
    return Evaluation(error / total, active.sum(-1) / seen, active / seen, seen, of_batches)


def check_not_zero(total: Tensor) -> None:
    """Refuse gradients of which all are zero.

    Args:
        total: Σ‖g‖².

    Raises:
        ValueError: if it is zero.
    """
    if not (total > 0).all():
        raise ValueError(
            problem(
                "gradients",
                "row gradients that are not all zero",
                "only zeros",
                "The outputs do not depend on the chosen parameters, or every row equals its reference.",
            )
        )


def inference_threshold(
    source: GradientSource,
    encoder: Stack,
    active_fraction: float,
    *,
    n_rows: int,
    batch_size: int,
    at_once: int | None = None,
) -> Float[Tensor, "*replica"]:
    """The size from which on a coefficient counts as active when rows are encoded one by one.

    The cut that keeps the share `active_fraction` of all (row, subnetwork) pairs over many batches
    together, so that it does not depend on the luck of one batch.

    Args:
        source: rows of the training data.
        encoder: V_in.
        active_fraction: k.
        n_rows: rows to pool.
        batch_size: rows per batch.
        at_once: rows whose gradients may be made at once; None for all of a batch.

    Returns:
        One threshold per replica.
    """
    batch_size = _batch_size(batch_size, source)
    sizes = []
    with torch.no_grad():
        for number in range(-(-n_rows // batch_size)):
            gradients = source.batch_gradients(number, batch_size, at_once=at_once)
            sizes.append(gradients.inner(encoder).abs())
    pooled = torch.cat(sizes, dim=-2).flatten(-2)
    keep = n_active(active_fraction, pooled.shape[-1])
    return pooled.topk(keep, dim=-1).values.amin(-1)


def _batch_size(wanted: int, source: GradientSource) -> int:
    """At most the rows there are; at least 2, as a row alone has no other row for a reference."""
    return min(max(2, wanted), source.n_rows)
