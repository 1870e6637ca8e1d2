"""What a row costs in memory, so that batches can be cut to a budget before anything is run."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from subscape.gradients.one_pass import OnePass
from subscape.gradients.row_gradients import FactoredRowGradients
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

    @classmethod
    def of(
        cls, storages: dict[int, int], one: OnePass, made: FactoredRowGradients, n_samples: int
    ) -> MemoryUse:
        """What a row took in a pass over `n_samples` samples whose tensors were `watched`."""
        for values in one.kept():
            _record(storages, values)
        n_rows = len(one.outputs)
        terms = {
            name: g.left.shape[1] if isinstance(g, OuterGradient) else 0
            for name, g in made.tensors.items()
        }
        one_output = one.outputs[0].numel() * max(4, one.outputs.element_size())
        return cls(sum(storages.values()) // n_rows, 5 * one_output, terms)


@contextmanager
def watched(model: nn.Module) -> Generator[dict[int, int]]:
    """Bytes of every storage that a graph keeps meanwhile, without those of the model itself."""
    storages: dict[int, int] = {}
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}

    def pack(values: Tensor) -> Tensor:
        if values.untyped_storage().data_ptr() not in own:
            _record(storages, values)
        return values

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda values: values):
        yield storages


def _record(storages: dict[int, int], values: Tensor) -> None:
    storage = values.untyped_storage()
    storages[storage.data_ptr()] = storage.nbytes()
