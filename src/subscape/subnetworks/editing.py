"""Moving a model along subnetworks: W0 + Σ δ_k v_k, in place and undone to the bit, or on a copy.

(arXiv 2504.00194, sec. 3.3.) A restriction to some tensors moves along those parts of the directions
only, which are then shorter than 1.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from types import TracebackType

import torch
from torch import Tensor, nn

from subscape._checks import problem, require
from subscape._html import Printed
from subscape._shapes import Float
from subscape.lowrank import Stack
from subscape.targets import match

Deltas = Mapping[int, float]
"""How far to move along each subnetwork: δ_k by index."""


def displacement(
    stack: Stack, deltas: Deltas, tensors: str | Sequence[str] = "*"
) -> dict[str, Float[Tensor, "..."]]:
    """Σ δ_k v_k by parameter name."""
    n = stack.weights.shape[0]
    for index, delta in deltas.items():
        require(
            isinstance(index, int) and 0 <= index < n,
            "deltas",
            f"subnetworks from 0 to {n - 1}",
            repr(index),
            error=IndexError,
        )
        require(math.isfinite(delta), "deltas", f"a finite δ for subnetwork {index}", repr(delta))
    chosen = match(stack.layout.names, tensors)
    sizes = stack.weights.new_tensor(list(deltas.values()))
    index = torch.tensor(list(deltas), dtype=torch.long, device=stack.weights.device)
    dense = stack.select(index).dense()
    return {name: torch.einsum("k,k...->...", sizes, dense[name]) for name in chosen}


class Edit(Printed):
    """Parameters of a model moved in place, and put back bit by bit.

    A context manager, or an object to call `undo` on. Of several edits of one model the last one applied is
    to be undone first.

    Args:
        model: the model; its parameters are changed when the edit is applied.
        change: what to add, by parameter name.
    """

    def __init__(self, model: nn.Module, change: Mapping[str, Float[Tensor, "..."]]) -> None:
        self.model = model
        self.change = dict(change)
        self._before: dict[str, Tensor] = {}

    def __repr__(self) -> str:
        state = "applied" if self.applied else "not applied"
        return f"Edit({len(self.change)} tensors of {type(self.model).__name__}, {state})"

    @property
    def applied(self) -> bool:
        """Whether the model is in its edited state."""
        return bool(self._before)

    def apply(self) -> Edit:
        """Move the parameters; does nothing if they are moved already."""
        if self.applied:
            return self
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        moved = {
            name: (parameters[name].detach().to(add.dtype) + add.to(parameters[name].device)).to(
                parameters[name].dtype
            )
            for name, add in self.change.items()
        }
        not_finite = [name for name, values in moved.items() if not torch.isfinite(values).all()]
        if not_finite:
            raise ValueError(
                problem(
                    "deltas",
                    f"moves that stay within the range of {parameters[not_finite[0]].dtype}",
                    f"infinite entries in {not_finite[0]}",
                    "Use smaller deltas.",
                )
            )
        self._before = {name: parameters[name].detach().clone() for name in moved}
        with torch.no_grad():
            for name, values in moved.items():
                parameters[name].copy_(values)
        return self

    def undo(self) -> None:
        """Put the parameters back as they were; does nothing if they are back already."""
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        with torch.no_grad():
            for name, values in self._before.items():
                parameters[name].copy_(values)
        self._before = {}

    def __enter__(self) -> nn.Module:
        self.apply()
        return self.model

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.undo()


def edited_copy(model: nn.Module, change: Mapping[str, Float[Tensor, "..."]]) -> nn.Module:
    """A copy of the model with the change made; the model itself stays as it is."""
    new = copy.deepcopy(model)
    Edit(new, change).apply()
    return new
