"""Given rows of a data set, and the outputs of a model moved in parameter space at them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from subscape._shapes import Bool, Float, Int
from subscape.data import Samples, take, to_device
from subscape.targets import Target


@dataclass(frozen=True)
class RowSet:
    """Rows by sample, and by position where a row is a token."""

    samples: Int[Tensor, " row"]
    """Index of every row's sample in the data."""
    position: Int[Tensor, " row"] | None = None
    """Position in the sequence of every token row; None where a sample is a row."""

    def __len__(self) -> int:
        return len(self.samples)

    def select(self, index: slice | Tensor) -> RowSet:
        """Some of the rows."""
        position = None if self.position is None else self.position[index]
        return RowSet(self.samples[index], position)

    def split(self, size: int) -> list[RowSet]:
        """The rows in parts of at most `size`."""
        return [self.select(slice(start, start + size)) for start in range(0, len(self), size)]

    def holds(self, other: RowSet) -> Bool[Tensor, " other"]:
        """Which of the other rows are among these."""
        same = other.samples[:, None] == self.samples
        if self.position is not None and other.position is not None:
            same &= other.position[:, None] == self.position
        return same.any(1)

    def joined(self, other: RowSet) -> RowSet:
        """These rows and then the other ones."""
        samples = torch.cat([self.samples, other.samples])
        if self.position is None or other.position is None:
            return RowSet(samples)
        return RowSet(samples, torch.cat([self.position, other.position]))

    def inputs(self, data: Samples, target: Target) -> Samples:
        """Their samples, where the model's parameters are."""
        return to_device(take(data, self.samples), target.like.device)

    def pick(self, outputs: Float[Tensor, "row ..."]) -> Float[Tensor, "row *output"]:
        """Every row's own output among those of its sample."""
        if self.position is None:
            return outputs
        rows = torch.arange(len(self), device=outputs.device)
        return outputs[rows, self.position.to(outputs.device)]


Direction = Mapping[str, Float[Tensor, "..."]]
"""A direction in parameter space by parameter name."""


def moved_by(direction: Direction, delta: float) -> Direction:
    """The move of δ along a direction."""
    return {name: delta * v for name, v in direction.items()}


def outputs_at(
    target: Target,
    data: Samples,
    rows: RowSet,
    change: Direction | None = None,
    *,
    micro_batch_size: int = 256,
) -> Float[Tensor, "row *output"]:
    """f(x, W0 + change) at rows, without gradient and not checked for being finite."""
    moved = target.moved(change or {})
    with torch.no_grad():
        return torch.cat([
            part.pick(target.outputs(part.inputs(data, target), moved))
            for part in rows.split(micro_batch_size)
        ])
