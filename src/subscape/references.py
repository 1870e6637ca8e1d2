"""References y_r: the output that a row's divergence is measured against.

A reference rule is any callable `(outputs, rows, generator) -> reference` where outputs [row, *output]
are the batch's own outputs, `rows` [row] are the indices of its samples (where every position is a row:
sample · positions + position), and reference has the shape of outputs. It must draw from `generator`
only, so that a run can be replayed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from subscape._checks import nearest, problem
from subscape._shapes import Float, Int

Reference = Callable[[Tensor, Tensor, torch.Generator], Tensor]


def another_row(
    outputs: Float[Tensor, "row *output"], rows: Int[Tensor, " row"], generator: torch.Generator
) -> Float[Tensor, "row *output"]:
    """The output of another row, uniform over all rows drawn together but the row itself.

    A row of the same sample is passed over too, where batches drawn together hold a sample twice. (The
    paper draws a random sample of X; the authors' code allows a row to meet itself.)

    Args:
        outputs: f(x_i) of the rows drawn together.
        rows: index of every row's sample.
        generator: draws the partners.

    Returns:
        A reference per row.

    Raises:
        ValueError: if there is one row only.
    """
    n = outputs.shape[0]
    if n < 2:
        raise ValueError(
            problem(
                "reference",
                "at least 2 rows in a batch for 'another-row'",
                f"{n}",
                "Use larger batches, or reference='uniform'.",
            )
        )
    offset = torch.randint(1, n, (n,), generator=generator)
    other = (torch.arange(n) + offset) % n
    if rows.unique().numel() > 1:
        while (twin := rows[other] == rows).any():
            other = torch.where(twin, (other + 1) % n, other)
    return outputs[other.to(outputs.device)]


def batch_mean(
    outputs: Float[Tensor, "row *output"], rows: Int[Tensor, " row"], generator: torch.Generator
) -> Float[Tensor, "row *output"]:
    """The mean output of the batch (for logits: the mean of the logits)."""
    return outputs.mean(0, keepdim=True).expand_as(outputs)


def uniform(
    outputs: Float[Tensor, "row *output"], rows: Int[Tensor, " row"], generator: torch.Generator
) -> Float[Tensor, "row *output"]:
    """All-zero outputs: as logits, the uniform distribution."""
    return torch.zeros_like(outputs)


@dataclass(frozen=True)
class FixedOutput:
    """One output for all rows."""

    output: Tensor
    """Shape [*output]."""

    def __call__(self, outputs: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
        """The output, once per row."""
        if self.output.shape != outputs.shape[1:]:
            raise ValueError(
                problem(
                    "reference",
                    f"a fixed output of shape {list(outputs.shape[1:])}",
                    f"shape {list(self.output.shape)}",
                    "Give the output of one row, without a row axis.",
                )
            )
        return self.output.to(outputs).expand_as(outputs)


@dataclass(frozen=True)
class Pairs:
    """An explicit reference for every sample of the data set (contrastive pairs)."""

    outputs: Tensor
    """Shape [sample, *output]: row i's reference is the entry of its sample."""

    def of_samples(self, index: Int[Tensor, " sample"]) -> Pairs:
        """The pairs of some of the samples, in the order of `index`."""
        return Pairs(self.outputs[index.to(self.outputs.device)])

    def __call__(self, outputs: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
        """The outputs of the rows' samples."""
        if self.outputs.shape[1:] != outputs.shape[1:] or rows.max() >= self.outputs.shape[0]:
            raise ValueError(
                problem(
                    "reference",
                    f"pairs with one output {list(outputs.shape[1:])} for every sample",
                    f"shape {list(self.outputs.shape)}",
                    "Give references [sample, *output] in the order of the data.",
                )
            )
        return self.outputs.to(outputs)[rows.to(self.outputs.device)]


NAMED: dict[str, Reference] = {
    "another-row": another_row,
    "batch-mean": batch_mean,
    "uniform": uniform,
}


def resolve(reference: str | Reference) -> Reference:
    """The reference rule of that name, or the callable itself.

    Args:
        reference: a key of `NAMED`, or a callable `(outputs, rows, generator) -> reference`.

    Returns:
        The callable.

    Raises:
        ValueError: if the name is unknown.
    """
    if callable(reference):
        return reference
    if reference not in NAMED:
        raise ValueError(
            problem(
                "reference",
                f"one of {list(NAMED)}, FixedOutput, Pairs or a callable",
                repr(reference),
                nearest(reference, NAMED),
            )
        )
    return NAMED[reference]
