"""Which gradients, measured how: the weight of a row, and the metric, estimated from training rows.

A row's gradient Jᵀ ∂D/∂f is measured in the Euclidean norm of the parameters and counts by the square of its
length: that is what is published (`norm`, `euclidean`). Each is a choice; see docs/method.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from subscape._checks import require
from subscape._shapes import Float
from subscape.gradients.row_gradients import RowGradients
from subscape.gradients.tensor_gradients import TensorGradient
from subscape.lowrank.metric import Metric, tensor_metric

RowWeight = Literal["norm", "output", "unit"] | float
"""`norm`: as it is; `output`: ∂D/∂f of length 1; `unit`: ‖g‖ of 1; a number p: g/‖g‖^p."""
FLOOR = 1e-2
"""Lengths below this share of the root mean square are not scaled up any further: rows that equal their
reference stay small."""


def check_row_weight(weight: RowWeight) -> None:
    """Refuse what is no row weight."""
    require(
        weight in ("norm", "output", "unit")
        or (isinstance(weight, int | float) and 0 <= float(weight) <= 1),
        "row_weight",
        "'norm', 'output', 'unit', or a power of the norm between 0 ('norm') and 1 ('unit')",
        repr(weight),
    )


@dataclass(frozen=True)
class Geometry:
    """Which gradients, measured how: what a decomposition keeps of it."""

    row_weight: RowWeight = "norm"
    """How much a row counts."""
    metric: Metric | None = None
    """None for the Euclidean one."""
    typical_output: float = 1.0
    """Root mean square of ‖∂D/∂f‖."""
    typical_row: float = 1.0
    """Root mean square of ‖g‖, in the metric."""

    def of_outputs(self, e: Float[Tensor, "row *output"]) -> Float[Tensor, "row *output"]:
        """∂D/∂f as rows count by it: with `output` of length 1, less where it is below the floor."""
        if self.row_weight != "output":
            return e
        length = torch.linalg.vector_norm(e.flatten(1), dim=1) / self.typical_output
        return e / (self.typical_output * length.clamp_min(FLOOR).view(-1, *[1] * (e.dim() - 1)))

    def of_rows(self, gradients: RowGradients) -> RowGradients:
        """Row gradients in the metric, each divided by a power of its length there."""
        if self.metric is not None:
            gradients = gradients.in_metric(self.metric)
        if self.power == 0:
            return gradients
        length = gradients.squared_norm().sqrt() / self.typical_row
        return gradients.scaled(length.clamp_min(FLOOR) ** -self.power)

    @property
    def power(self) -> float:
        """The power of its length by which a row gradient is divided."""
        if isinstance(self.row_weight, str):
            return 1.0 if self.row_weight == "unit" else 0.0
        return float(self.row_weight)

    def state(self) -> dict[str, Tensor]:
        """All but the row weight, as tensors by name."""
        typical = torch.tensor([self.typical_output, self.typical_row], dtype=torch.float64)
        metric = {} if self.metric is None else self.metric.state()
        return {"typical": typical, **{f"metric.{name}": t for name, t in metric.items()}}

    @classmethod
    def from_state(
        cls,
        row_weight: RowWeight,
        state: Mapping[str, Tensor],
        shapes: Mapping[str, Sequence[int]],
    ) -> Geometry:
        """What `state` gave."""
        of_metric = {k[7:]: v for k, v in state.items() if k.startswith("metric.")}
        metric = Metric.from_state(of_metric, shapes) if of_metric else None
        return cls(row_weight, metric, *state["typical"].tolist())


def kronecker(batches: Iterable[RowGradients], *, power: float, damping: float) -> Metric:
    """The Kronecker metric of row gradients, in one pass."""
    sums: dict[str, list[Tensor]] = {}
    squares: dict[str, float] = {}
    first: Mapping[str, TensorGradient] = {}
    n_rows = 0
    for batch in batches:
        tensors = batch.factored().tensors
        first = first or tensors
        n_rows += batch.n_rows
        for name, gradient in tensors.items():
            moments = [m.double() for m in gradient.moments()]
            before = sums.get(name, [0.0] * len(moments))
            sums[name] = [a + b for a, b in zip(before, moments, strict=True)]
            squares[name] = squares.get(name, 0.0) + float(gradient.squared_norm().double().sum())
    metrics = {}
    for name, moments in sums.items():
        means = [m / n_rows for m in moments]
        whitened = tensor_metric(means, squares[name] / n_rows, power, damping)
        like = first[name].squared_norm()
        square = first[name].in_metric(whitened.to(like)).squared_norm().mean()
        scale = float(square * len(sums)) ** -0.5 if square > 0 else 1.0
        metrics[name] = replace(whitened, scale=scale).to(like)
    return Metric(metrics)
