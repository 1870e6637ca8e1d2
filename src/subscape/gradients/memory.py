"""What a row costs in memory, so that batches can be cut to a budget before anything is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from subscape.data import Samples, n_samples, take
from subscape.gradients.plan import Plan
from subscape.gradients.tensor_gradients import OuterGradient


@dataclass(frozen=True)
class MemoryUse:
    """Bytes that every further row of a micro-batch takes while its gradients are made."""

    graph: int
    """Kept by the model's graph and by the captured modules, with the gradients of what is captured."""
    outputs: int
    """Outputs, references, ∂D/∂f and what the divergence needs on the way."""
    terms: Mapping[str, int]
    """Terms of a row's gradient by parameter; 0 where it is made in full."""

    @property
    def per_row(self) -> int:
        """Graph and outputs together."""
        return self.graph + self.outputs


def measure(plan: Plan, inputs: Samples, output_shape: tuple[int, ...], rows: str) -> MemoryUse:
    """Measure what a row takes by running the model on two and on three samples.

    Args:
        plan: engines.
        inputs: three samples.
        output_shape: shape of one sample's outputs.
        rows: `sample`, `token` or `every-token`.

    Returns:
        Bytes per row.
    """
    every = rows == "every-token"
    one_output = torch.Size(output_shape if rows == "sample" else output_shape[1:]).numel()
    found = []
    terms: dict[str, int] = {}
    for n in (2, 3):
        samples = take(inputs, slice(0, n))
        position = torch.full((n,), output_shape[0] - 1) if rows == "token" else None
        storages: dict[int, int] = {}
        with torch.autograd.graph.saved_tensors_hooks(_recorder(storages), lambda x: x):
            one = plan.run(samples, position, every=every)
        for values in one.kept():
            _record(storages, values)
        found.append(sum(storages.values()))
        if n_samples(samples) == 3:
            made = one.gradients(torch.zeros_like(one.outputs)).tensors
            terms = {
                name: g.left.shape[1] if isinstance(g, OuterGradient) else 0
                for name, g in made.items()
            }
    per_sample = max(0, found[1] - found[0])
    n_rows = output_shape[0] if every else 1
    return MemoryUse(per_sample // n_rows, 5 * 4 * one_output, terms)


def _recorder(storages: dict[int, int]) -> Any:
    def pack(values: Tensor) -> Tensor:
        _record(storages, values)
        return values

    return pack


def _record(storages: dict[int, int], values: Tensor) -> None:
    storage = values.untyped_storage()
    storages[storage.data_ptr()] = storage.nbytes()
