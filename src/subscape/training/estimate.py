"""What a run will take in memory, known before it starts, and how its batches are cut to a budget."""

from __future__ import annotations

from dataclasses import dataclass

from subscape._html import Printed
from subscape.gradients import GradientSource
from subscape.gradients.contraction import through_factors
from subscape.lowrank import Layout, TensorLayout, make_layout
from subscape.lowrank.tensor import LARGEST_PRODUCT, pair_rank
from subscape.rows import GROUP
from subscape.training.config import TrainingConfig

GIB = 2**30
TYPICAL_ROWS = 256
"""Rows at once by which the way of contraction is judged; micro-batches are of this order."""


@dataclass(frozen=True)
class Estimate(Printed):
    """Bytes that a run takes at its peak, part by part."""

    model: int
    """The model's parameters."""
    subnetworks: int
    """Encoder and decoder, their gradients, and Adam's two moments of each."""
    directions: int
    """Directions multiplied out, and their inner products."""
    per_row: int
    """What a row takes: the model's graph, outputs, gradients and their contraction."""
    rows_within: int
    """Rows that fit the budget at once."""
    batch_size: int
    """Rows of a step."""
    kept: int = 0
    """Activations in front of the chosen parameters, of all samples."""

    @property
    def micro_batch_size(self) -> int:
        """Rows of a step whose gradients are made at once: the batch, or a part of it."""
        return min(self.batch_size, self.rows_within)

    @property
    def total(self) -> int:
        """All parts together."""
        rows = self.per_row * self.micro_batch_size
        return self.model + self.kept + self.subnetworks + self.directions + rows

    @property
    def n_micro_batches(self) -> int:
        """How many micro-batches make up a step."""
        return -(-self.batch_size // self.micro_batch_size)

    def __str__(self) -> str:
        parts = {
            "model": self.model,
            **({"activations kept": self.kept} if self.kept else {}),
            "subnetworks": self.subnetworks,
            "directions": self.directions,
            f"{self.micro_batch_size} rows": self.per_row * self.micro_batch_size,
        }
        shown = ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items())
        cut = f" in {self.n_micro_batches} micro-batches" if self.n_micro_batches > 1 else ""
        return f"about {self.total / GIB:.2f} GiB ({shown}); steps of {self.batch_size} rows{cut}"


def estimate(source: GradientSource, config: TrainingConfig) -> Estimate:
    """Estimate the memory of a run from its sizes and from what two and three samples take.

    Args:
        source: rows to train on.
        config: the settings.

    Returns:
        The estimate, with the micro-batch that keeps rows within `config.memory_gib`.
    """
    config = config.of_rows(source.kind)
    assert config.rank is not None
    layout = make_layout(source.shapes, config.rank, config.form)
    entry = source.target.like.element_size()
    n_directions = config.n_restarts * config.n_directions
    model = sum(p.numel() * p.element_size() for p in source.target.model.parameters())
    subnetworks = 8 * n_directions * layout.size * entry
    directions = sum(
        _directions(t, n_directions, config.n_directions, entry) for t in layout.tensors
    )
    per_row = _per_row(
        source, layout, min(config.batch_size, TYPICAL_ROWS), 2 * n_directions, entry
    )
    kept = 0 if source.kept is None else source.kept.bytes
    left = int(config.memory_gib * GIB) - directions - kept
    # A group of rows is never cut.
    within = max(GROUP * source.draws.per_sample, left // max(1, per_row))
    return Estimate(model, subnetworks, directions, per_row, within, config.batch_size, kept)


def _directions(tensor: TensorLayout, n: int, of_replica: int, entry: int) -> int:
    """Directions of one tensor in full with their gradient, or the products of thin matrices."""
    dense = 6 * n * tensor.numel * entry
    rank = pair_rank(tensor)
    if rank is None:
        return dense
    return min(dense, 6 * min(n * of_replica * rank**2 * entry, LARGEST_PRODUCT))


def _per_row(source: GradientSource, layout: Layout, n_rows: int, n: int, entry: int) -> int:
    use = source.memory
    if use is None:
        return layout.n_parameters * entry
    total = use.per_row
    for tensor in layout.tensors:
        terms, rank = use.terms[tensor.name], pair_rank(tensor)
        factors = terms > 0 and through_factors(tensor, n, n_rows, terms * n_rows, entry)
        if factors and rank is not None:
            total += 4 * terms * n * rank * entry
        else:
            total += tensor.numel * entry
    return total
