"""What a toy is trained on, apart from how long, and how well it was learned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call, vmap

from subscape._shapes import Bool, Float
from subscape.toys.inputs import SparseInputs

Parameters = dict[str, Tensor]

REPRESENTED_SHARE = 0.25
"""A group is represented if its single-group loss is at most this share of that of predicting zero:
an output of half the right size has exactly a quarter."""

N_EVALUATION = 4096
N_SINGLE = 256


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


class Measured(NamedTuple):
    """How well candidates learned."""

    loss: Float[Tensor, " candidate"]
    """Mean squared error on fresh inputs."""
    single_loss: Float[Tensor, "candidate group"]
    """Error on inputs of one group alone, over that of predicting zero."""

    @property
    def represented(self) -> Bool[Tensor, "candidate group"]:
        """Which groups a candidate computes."""
        return self.single_loss <= REPRESENTED_SHARE


def measure(
    recipe: Recipe, candidates: Parameters, mixing: Tensor | None, generator: Generator
) -> Measured:
    """Losses of candidates, the leading axis of their parameters, on the same fresh inputs."""

    def error(x: Tensor) -> tuple[Tensor, Tensor]:
        y = recipe.label(x, mixing)
        found = outputs(recipe, candidates, x)
        return (found - y).square().mean((1, 2)), y.square().mean()

    loss, _ = error(recipe.inputs.sample(N_EVALUATION, generator))
    shares = []
    for group in range(recipe.inputs.n_groups):
        own, zero = error(recipe.inputs.single(group, N_SINGLE, generator))
        shares.append(own / zero)
    return Measured(loss, torch.stack(shares, dim=1))
