"""The row gradients that training sees: step by step, of one target or of several side by side.

Which rows a step has is a matter of seed and step alone; here they are made in pieces that fit memory, or
several steps' at once where they are small.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from subscape._shapes import Float
from subscape.gradients import DenseRowGradients, GradientSource, RowGradients, RowProducts
from subscape.gradients.contraction import DENSE_BUDGET
from subscape.lowrank import Layout, Stack
from subscape.rows import joined

PREFETCH_BUDGET = 32 * 2**20
"""Bytes of row gradients of one source made ahead in one engine call, where batches are small."""
PREFETCH_STEPS = 64
"""Steps made ahead at most."""
JUDGING_ROWS = 1024
"""Rows, or one batch if that is more, on which the use of subnetworks is measured."""
JUDGING_BUDGET = 128 * 2**20
"""Bytes of dense row gradients up to which more rows than a batch are taken."""


class Stream:
    """Batches of row gradients of a run of `n_steps`."""

    def __init__(
        self,
        sources: Sequence[GradientSource],
        layout: Layout,
        batch_size: int,
        n_steps: int,
        micro_batch_size: int | None = None,
        n_parameters_ahead: int | None = None,
        n_directions: int = 1,
    ) -> None:
        self.sources, self.n_steps = list(sources), n_steps
        self.batch_size, self.micro_batch_size = batch_size, micro_batch_size
        entry = self.sources[0].target.like.element_size()
        self._row_bytes = layout.n_parameters * entry
        # More than the layout's where the gradients of others are made with these.
        self._row_bytes_ahead = (n_parameters_ahead or layout.n_parameters) * entry
        # Made ahead they are dense, and so are then the directions that they meet.
        self._ahead = n_directions * self._row_bytes <= DENSE_BUDGET
        self._block: tuple[int, Tensor] | None = None

    def gradients(self, step: int) -> RowProducts:
        """Row gradients of a step, of all processes."""
        n = self.steps_ahead
        if n == 1 and len(self.sources) == 1:
            (source,) = self.sources
            rows = source.rows(step, self.batch_size)
            return source.shared(rows, micro_batch_size=self.micro_batch_size)
        first = step // n * n
        if self._block is None or self._block[0] != first:
            count = max(step + 1, min(first + n, self.n_steps)) - first
            block = torch.stack([self._of_steps(s, first, count).flat for s in self.sources])
            by_step = block.unflatten(1, (count, self.batch_size)).movedim(1, 0).contiguous()
            self._block = (first, by_step)
        return DenseRowGradients(self._block[1][step - first], self.sources[0].shapes)

    def judging(self, index: int, step: int) -> RowGradients:
        """Rows of one source to judge subnetworks by: those of the next steps."""
        affordable = JUDGING_BUDGET // (self._row_bytes * self.batch_size)
        n = max(1, min(affordable, JUDGING_ROWS // self.batch_size))
        return self._of_steps(self.sources[index], step, n)

    def inner(
        self, index: int, step: int, stack: Stack, n_rows: int
    ) -> Float[Tensor, "*replica row subnetwork"]:
        """⟨g, v⟩ of some `n_rows` rows of one source with a stack: those of the next steps, step by step."""
        n_steps = -(-n_rows // self.batch_size)
        parts = [
            self._of_steps(self.sources[index], s, 1).inner(stack)
            for s in range(step, step + n_steps)
        ]
        return torch.cat(parts, dim=-2)

    @property
    def steps_ahead(self) -> int:
        """Steps whose gradients are made together."""
        ragged = any(source.draws.mask is not None for source in self.sources)
        if not self._ahead or ragged or self.sources[0].ranks.size > 1:
            return 1
        batch_bytes = self._row_bytes_ahead * self.batch_size
        affordable = min(PREFETCH_STEPS, PREFETCH_BUDGET // batch_bytes)
        if self.micro_batch_size is not None:
            affordable = min(affordable, self.micro_batch_size // self.batch_size)
        return max(1, affordable)

    def _of_steps(self, source: GradientSource, first: int, n: int) -> RowGradients:
        rows = joined([source.rows(step, self.batch_size) for step in range(first, first + n)])
        return source.gradients(rows, micro_batch_size=self.micro_batch_size)
