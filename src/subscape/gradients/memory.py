"""What a row costs in memory, so that batches can be cut to a budget before anything is run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from subscape.data import Samples, take
from subscape.gradients.plan import Plan


@dataclass(frozen=True)
class MemoryUse:
    """Bytes that every further row of a micro-batch takes while its gradients are made."""

    graph: int
    """Kept by the model's graph and by the captured modules, beside the parameters."""
    outputs: int
    """Outputs, references, ∂D/∂f and what the divergence needs on the way."""

    @property
    def per_row(self) -> int:
        """Both together."""
        return self.graph + self.outputs


def measure(
    plan: Plan | None, inputs: Samples, output_shape: tuple[int, ...], rows: str
) -> MemoryUse:
    """Measure what a row takes by running the model on two and on three samples.

    Args:
        plan: engines; None where dense rows are made at once.
        inputs: three samples.
        output_shape: shape of one sample's outputs.
        rows: `sample`, `token` or `every-token`.

    Returns:
        Bytes per row.
    """
    entry = 4
    one_output = output_shape if rows == "sample" else output_shape[1:]
    outputs = 5 * entry * torch.Size(one_output).numel()
    if plan is None:
        return MemoryUse(0, outputs)
    found = [_graph_bytes(plan, take(inputs, slice(0, n)), output_shape, rows) for n in (2, 3)]
    per_sample = max(0, found[1] - found[0])
    n_rows = output_shape[0] if rows == "every-token" else 1
    return MemoryUse(per_sample // n_rows, outputs)


def _graph_bytes(plan: Plan, inputs: Samples, output_shape: tuple[int, ...], rows: str) -> int:
    """Bytes of all storages that a pass keeps for its backward pass."""
    storages: dict[int, int] = {}

    def pack(values: Tensor) -> Any:
        storage = values.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return values

    n = len(next(iter(inputs.values()))) if isinstance(inputs, dict) else len(inputs)
    position = torch.full((n,), output_shape[0] - 1) if rows == "token" else None
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda values: values):
        one = plan.run(inputs, position, every=rows == "every-token")
    for values in one.kept():
        storage = values.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())
