"""What a row costs in memory, so that batches can be cut to a budget before anything is run."""

from __future__ import annotations

import weakref
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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
    temporaries: int = 0
    """What there is at once on the way to the gradients, above these, such as patches of a convolution."""

    @property
    def per_row(self) -> int:
        """Graph, outputs and temporaries together."""
        return self.graph + self.outputs + self.temporaries

    @classmethod
    def of(
        cls, storages: dict[int, int], one: OnePass, made: FactoredRowGradients, passing: Passing
    ) -> MemoryUse:
        """What a row took in a pass whose tensors were `watched`, and whose backward pass was `Passing`."""
        for values in one.kept():
            _record(storages, values)
        n_rows = len(one.outputs)
        terms = {
            name: g.left.shape[1] if isinstance(g, OuterGradient) else 0
            for name, g in made.tensors.items()
        }
        one_output = one.outputs[0].numel() * max(4, one.outputs.element_size())
        graph, passed = sum(storages.values()) // n_rows, passing.bytes // n_rows
        return cls(graph, 5 * one_output, terms, passed)


class Passing(TorchDispatchMode):
    """Watches how many bytes of what is made meanwhile there are at once, above what is left at the end."""

    def __init__(self) -> None:
        super().__init__()
        self._alive: dict[int, int] = {}
        self._now = self._peak = 0

    @property
    def bytes(self) -> int:
        """Of all rows together."""
        return self._peak - self._now

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Every operation of torch passes here."""
        out = func(*args, **(kwargs or {}))
        given = {id(x.untyped_storage()) for x in tree_leaves(args) if isinstance(x, Tensor)}
        for values in tree_leaves(out):
            if isinstance(values, Tensor) and id(values.untyped_storage()) not in given:
                self._made(values.untyped_storage())
        return out

    def _made(self, storage: torch.UntypedStorage) -> None:
        if id(storage) in self._alive:
            return
        self._alive[id(storage)] = storage.nbytes()
        self._now += storage.nbytes()
        self._peak = max(self._peak, self._now)
        weakref.finalize(storage, self._gone, id(storage)).atexit = False

    def _gone(self, key: int) -> None:
        self._now -= self._alive.pop(key)


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
