"""Which gradients, measured how: the weight of a row, and the metric, estimated from training rows.

A row's gradient Jᵀ ∂D/∂f is measured in the Euclidean norm of the parameters and counts by the square of its
length: that is what is published (`norm`, `euclidean`). Each is a choice; see docs/method.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from subscape._checks import require
from subscape._ranks import ALONE, Ranks
from subscape._shapes import Float
from subscape.gradients.row_gradients import RowGradients
from subscape.lowrank.metric import Metric, TensorMetric, tensor_metric

RowWeight = Literal["norm", "output", "unit"] | float
"""`norm`: as it is; `output`: ∂D/∂f of length 1; `unit`: ‖g‖ of 1; a number p: g/‖g‖^p."""
FLOOR = 1e-2
"""Lengths below this share of the root mean square are not scaled up any further: rows that equal their
reference stay small."""
ROUNDS = 6
"""Passes over the rows in which the moments of one mode are taken anew."""


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

    def to(self, like: Tensor) -> Geometry:
        """On another device and in another type."""
        return self if self.metric is None else replace(self, metric=self.metric.to(like))

    def state(self) -> dict[str, Tensor]:
        """All but the row weight, as tensors by name."""
        typical = torch.tensor([self.typical_output, self.typical_row], dtype=torch.float64)
        metric = {} if self.metric is None else self.metric.state()
        return {"typical": typical, **{f"metric.{name}": t for name, t in metric.items()}}

    @classmethod
    def from_state(
        cls, row_weight: RowWeight, state: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]
    ) -> Geometry:
        """What `state` gave."""
        check_row_weight(row_weight)
        typical = state.get("typical", torch.zeros(()))
        right = typical.shape == (2,) and bool((typical > 0).all())
        require(right, "geometry.typical", "two lengths", f"{typical.tolist()}")
        of_metric = {k[7:]: v for k, v in state.items() if k.startswith("metric.")}
        metric = Metric.from_state(of_metric, shapes) if of_metric else None
        return cls(row_weight, metric, *typical.tolist())


def kronecker(
    batches: Callable[[], Iterable[RowGradients]],
    *,
    power: float,
    damping: float,
    rounds: int = ROUNDS,
    ranks: Ranks = ALONE,
) -> Metric:
    """The Kronecker metric F^(−power) of row gradients; all tensors have the same mean square per row in it.

    The second moments of a mode as they stand weigh rows by their Euclidean length in the other modes, which
    depends on how the network is parametrised. So each is taken anew with the others whitened, mode after mode in
    turn (the flip-flop estimate of a matrix normal distribution), until that no longer matters: in `rounds` passes
    over the same `batches`, of which each process has its own. `damping` is λ as a share of the mean eigenvalue.
    """
    factors = _mean_moments(batches(), None, ranks)
    turns = {name: own for name, own in factors.items() if len(own) > 1}
    for number in range(rounds if turns else 0):
        place = {name: number % len(own) for name, own in turns.items()}
        others = {
            name: tensor_metric(own, 0.5, damping).without(place[name])
            for name, own in turns.items()
        }
        for name, moments in _mean_moments(batches(), others, ranks).items():
            turns[name][place[name]] = moments[place[name]]
    metrics = {name: tensor_metric(own, power, damping) for name, own in factors.items()}
    squares, n_rows = dict.fromkeys(metrics, 0.0), 0
    for batch in batches():
        n_rows += batch.n_rows
        for name, gradient in batch.factored().tensors.items():
            metrics[name] = metrics[name].to(gradient.squared_norm())
            squares[name] += float(gradient.in_metric(metrics[name]).squared_norm().double().sum())
    n_rows, squares = ranks.number(n_rows), {k: ranks.number(v) for k, v in squares.items()}
    return Metric({
        name: replace(
            m, scale=(squares[name] / n_rows * len(metrics)) ** -0.5 if squares[name] else 1.0
        )
        for name, m in metrics.items()
    })


def _mean_moments(
    batches: Iterable[RowGradients], metrics: Mapping[str, TensorMetric] | None, ranks: Ranks
) -> dict[str, list[Tensor]]:
    """Mean second moments of every mode, of all tensors as they are or of some in a metric."""
    sums: dict[str, list[Tensor]] = {}
    n_rows = 0
    for batch in batches:
        n_rows += batch.n_rows
        for name, gradient in batch.factored().tensors.items():
            if metrics is not None:
                if name not in metrics:
                    continue
                gradient = gradient.in_metric(metrics[name].to(gradient.squared_norm()))
            moments = [m.double() for m in gradient.moments()]
            before = sums.get(name, [0.0] * len(moments))
            sums[name] = [a + b for a, b in zip(before, moments, strict=True)]
    n_rows = ranks.number(n_rows)
    return {name: [ranks.summed(m) / n_rows for m in moments] for name, moments in sums.items()}
