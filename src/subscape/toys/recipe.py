"""What a toy is trained on, apart from how long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Generator, Tensor, nn
from torch.func import functional_call, vmap

from subscape._shapes import Float
from subscape.toys.inputs import SparseInputs

Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class Recipe:
    """What is trained, apart from how long."""

    name: str
    """Name of the toy."""
    model: nn.Module
    """The architecture; its own values are not used unless `complete` leaves a parameter out."""
    inputs: SparseInputs
    """The input distribution."""
    initial: Callable[[Generator], Parameters]
    """Initial values of what is trained."""
    label: Callable[[Tensor, Tensor | None], Tensor]
    """The right outputs for inputs [*, feature], given the mixing matrix [*, output, feature]."""
    complete: Callable[[Parameters], Parameters] = lambda free: free
    """From what is trained to the model's parameters, as where two of them are tied."""
    mixing: Callable[[Generator], Tensor] | None = None
    """Draws A for X -> AX."""


def outputs(recipe: Recipe, complete: Parameters, x: Tensor) -> Float[Tensor, "replica row out"]:
    """Outputs of every replica; x is [row, feature] for all of them, or [replica, row, feature]."""

    def single(values: Parameters, rows: Tensor) -> Tensor:
        return functional_call(recipe.model, values, (rows,))

    return vmap(single, in_dims=(0, 0 if x.dim() == 3 else None))(complete, x)
