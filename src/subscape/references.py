"""References y_r: the output that a row's divergence is measured against.

A reference rule is any callable `(outputs, rows) -> reference` with outputs [row, *output] the rows' own and
reference of the same shape. It sees whole groups of rows, but not always the same ones together: what it gives
for a row may depend on that row and its group only (`rows.partner` is another row of the group).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass

import torch
from torch import Tensor

from subscape._checks import nearest, require
from subscape._hash import sha256_of
from subscape._html import Printed
from subscape._shapes import Float, Int
from subscape.rows import Rows

Reference = Callable[[Tensor, Rows], Tensor]
MEAN = "mean"
"""The mean output of the data set: estimated from the training data, then a `FixedOutput`."""


def another_row(outputs: Float[Tensor, "row *output"], rows: Rows) -> Float[Tensor, "row *output"]:
    """The output of another row of the group, uniform over them.

    (The paper draws a random sample of X; the authors' code allows a row to meet itself.)
    """
    require(
        min(rows.groups) >= 2,
        "reference",
        "at least 2 rows in a batch for 'another-row'",
        "1",
        "Use larger batches, or reference='uniform'.",
    )
    return outputs[rows.partner.to(outputs.device)]


def group_mean(outputs: Float[Tensor, "row *output"], rows: Rows) -> Float[Tensor, "row *output"]:
    """The mean output of the row's group (for logits: the mean of the logits)."""
    parts = outputs.split(list(rows.groups))
    return torch.cat([part.mean(0, keepdim=True).expand_as(part) for part in parts])


def uniform(outputs: Float[Tensor, "row *output"], rows: Rows) -> Float[Tensor, "row *output"]:
    """All-zero outputs: as logits, the uniform distribution."""
    return torch.zeros_like(outputs)


class _OfTensor(Printed):
    """Says the shape of its tensor, and not its numbers."""

    def __repr__(self) -> str:
        (values,) = (getattr(self, f.name) for f in fields(self))  # pyright: ignore[reportArgumentType]
        return f"{type(self).__name__}({' × '.join(map(str, values.shape))} outputs)"


@dataclass(frozen=True, repr=False)
class FixedOutput(_OfTensor):
    """One output for all rows."""

    output: Tensor
    """Shape `[*output]`."""

    def __call__(self, outputs: Tensor, rows: Rows) -> Tensor:
        """The output, once per row."""
        require(
            self.output.shape == outputs.shape[1:],
            "reference",
            f"a fixed output of shape {list(outputs.shape[1:])}",
            f"shape {list(self.output.shape)}",
            "Give the output of one row, without a row axis.",
        )
        return self.output.to(outputs).expand_as(outputs)


@dataclass(frozen=True, repr=False)
class Pairs(_OfTensor):
    """An explicit reference for every sample of the data set (contrastive pairs)."""

    outputs: Tensor
    """Shape `[sample, *output]`: row i's reference is the entry of its sample. Where rows are positions of a
    sequence `[sample, position, *output]`, or one for all positions of a sample."""

    def of_samples(self, index: Int[Tensor, " sample"]) -> Pairs:
        """The pairs of some of the samples, in the order of `index`."""
        return Pairs(self.outputs[index.to(self.outputs.device)])

    def __call__(self, outputs: Tensor, rows: Rows) -> Tensor:
        """The outputs of the rows' samples, at their positions."""
        index: tuple[Tensor, ...] = (rows.samples.to(self.outputs.device),)
        if rows.position is not None and self.outputs.dim() > outputs.dim():
            index = (*index, rows.position.to(self.outputs.device))
        sizes = self.outputs.shape[: len(index)]
        fits = all(int(i.max()) < size for i, size in zip(index, sizes, strict=True))
        require(
            self.outputs.shape[len(index) :] == outputs.shape[1:] and fits,
            "reference",
            f"pairs with one output {list(outputs.shape[1:])} for every sample",
            f"shape {list(self.outputs.shape)}",
            "Give references [sample, *output], or [sample, position, *output], in the order of the data.",
        )
        return self.outputs[index].to(outputs)


REFERENCES: dict[str, Reference] = {
    "another-row": another_row,
    "batch-mean": group_mean,
    "uniform": uniform,
}
"""By name; `mean` besides, which needs data."""


def n_different(reference: Reference, n: int) -> int:
    """How many of n references drawn for a row can differ: one, where the rule draws nothing."""
    return 1 if reference is uniform or isinstance(reference, FixedOutput | Pairs) else n


def as_reference(reference: str | Reference) -> Reference:
    """The reference rule of that name, or the callable itself; `mean` is made by the gradient source."""
    if callable(reference):
        return reference
    require(
        reference in REFERENCES,
        "reference",
        f"one of {[*REFERENCES, MEAN]}, FixedOutput, Pairs or a callable (outputs, rows)",
        repr(reference),
        nearest(reference, [*REFERENCES, MEAN]),
    )
    return REFERENCES[reference]


def name_of(reference: Reference) -> str:
    """Name of a rule, the same in every process: its key, or that of its function or type with its fields."""
    for name, rule in REFERENCES.items():
        if rule is reference:
            return name
    if is_dataclass(reference) and not isinstance(reference, type):
        values = {f.name: getattr(reference, f.name) for f in fields(reference)}
        shown = [
            f"{k}={sha256_of({k: v}) if isinstance(v, Tensor) else repr(v)}"
            for k, v in values.items()
        ]
        return f"{type(reference).__qualname__}({', '.join(shown)})"
    return getattr(reference, "__qualname__", type(reference).__qualname__)
