"""Trains the targets of many seeds side by side, several candidates each, and keeps the best.

Takes a recipe (architecture, inputs, labels, initial values) and seeds; gives one toy per seed. All
parameters have a leading replica axis, seed by candidate; Adam works elementwise and the losses are
summed over replicas, so what a seed becomes does not depend on its neighbours.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call, vmap

from subscape._checks import require
from subscape._shapes import Bool, Float
from subscape.toys.inputs import SparseInputs
from subscape.toys.toy import Toy

Parameters = dict[str, Tensor]

REPRESENTED_SHARE = 0.25
"""A group is represented if its single-group loss is at most this share of that of predicting zero:
an output of half the right size has exactly a quarter."""

N_EVALUATION = 4096
N_SINGLE = 256


@dataclass(frozen=True)
class ToyTraining:
    """How a target is trained: Adam on a fixed sample, cosine decay to zero."""

    n_steps: int = 2000
    """Optimiser steps."""
    learning_rate: float = 0.01
    """Initial learning rate."""
    batch_size: int = 128
    """Inputs per step, the next ones of the sample each time."""
    n_samples: int = 10_000
    """Inputs in the sample; 10,000 in the authors' scripts."""
    n_candidates: int = 8
    """Initial values tried per seed, all on the same inputs."""

    def __post_init__(self) -> None:
        require(self.n_steps >= 1, "n_steps", "at least 1", self.n_steps)
        require(self.n_candidates >= 1, "n_candidates", "at least 1", self.n_candidates)
        require(
            self.batch_size <= self.n_samples,
            "batch_size",
            f"at most n_samples={self.n_samples}",
            self.batch_size,
        )


def _unchanged(free: Parameters) -> Parameters:
    return free


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
    complete: Callable[[Parameters], Parameters] = _unchanged
    """From what is trained to the model's parameters, as where two of them are tied."""
    mixing: Callable[[Generator], Tensor] | None = None
    """Draws A for X -> AX."""


def train_many(recipe: Recipe, seeds: Sequence[int], training: ToyTraining) -> list[Toy]:
    """Train one toy per seed, all of them in one vectorised run.

    Of every seed's candidates the one is kept that represents all groups, or most of them, and has
    the lowest loss on fresh inputs among those.

    Args:
        recipe: what to train.
        seeds: one per toy.
        training: how to train.

    Returns:
        The toys, in the order of the seeds.
    """
    require(len(seeds) > 0, "seeds", "at least one", list(seeds))
    drawn = [_draw(recipe, seed, training) for seed in seeds]
    free = {name: torch.cat([d.free[name] for d in drawn]) for name in drawn[0].free}
    free = _fit(
        recipe,
        free,
        torch.stack([d.x for d in drawn]),
        torch.stack([d.y for d in drawn]),
        training,
    )
    with torch.no_grad():
        trained = {k: v.unflatten(0, (len(seeds), -1)) for k, v in recipe.complete(free).items()}
        return [
            _best(recipe, seed, d, {k: v[i] for k, v in trained.items()})
            for i, (seed, d) in enumerate(zip(seeds, drawn, strict=True))
        ]


@dataclass(frozen=True)
class _Drawn:
    """All that one seed decides before training."""

    free: Parameters
    x: Tensor
    y: Tensor
    mixing: Tensor | None
    evaluation: Generator


def _draw(recipe: Recipe, seed: int, training: ToyTraining) -> _Drawn:
    # Streams of their own, so that more candidates or samples leave the other draws unchanged.
    initial, data, mixing, evaluation = (
        torch.Generator().manual_seed(4 * seed + stream) for stream in range(4)
    )
    candidates = [recipe.initial(initial) for _ in range(training.n_candidates)]
    matrix = None if recipe.mixing is None else recipe.mixing(mixing)
    x = recipe.inputs.sample(training.n_samples, data)
    free = {name: torch.stack([c[name] for c in candidates]) for name in candidates[0]}
    return _Drawn(free, x, recipe.label(x, matrix), matrix, evaluation)


def _outputs(recipe: Recipe, complete: Parameters, x: Tensor) -> Float[Tensor, "replica row out"]:
    def single(values: Parameters, rows: Tensor) -> Tensor:
        return functional_call(recipe.model, values, (rows,))

    return vmap(single, in_dims=(0, 0 if x.dim() == 3 else None))(complete, x)


def _fit(
    recipe: Recipe,
    free: Parameters,
    x: Float[Tensor, "seed row feature"],
    y: Float[Tensor, "seed row out"],
    training: ToyTraining,
) -> Parameters:
    free = {name: value.clone().requires_grad_(True) for name, value in free.items()}
    optimiser = torch.optim.Adam(list(free.values()), lr=training.learning_rate)
    size, n_batches = training.batch_size, training.n_samples // training.batch_size
    for step in range(training.n_steps):
        for group in optimiser.param_groups:
            share = (1 + math.cos(math.pi * step / training.n_steps)) / 2
            group["lr"] = training.learning_rate * share
        # The sample is in random order, so its slices are as good as random batches.
        first = step % n_batches * size
        batch = slice(first, first + size)
        rows, labels = (t[:, batch].repeat_interleave(training.n_candidates, dim=0) for t in (x, y))
        loss = (_outputs(recipe, recipe.complete(free), rows) - labels).square().mean((1, 2)).sum()
        gradients = torch.autograd.grad(loss, list(free.values()))
        for value, gradient in zip(free.values(), gradients, strict=True):
            value.grad = gradient
        optimiser.step()
    return {name: value.detach() for name, value in free.items()}


def _best(recipe: Recipe, seed: int, drawn: _Drawn, candidates: Parameters) -> Toy:
    measured = measure(recipe, candidates, drawn.mixing, drawn.evaluation)
    n_represented = measured.represented.sum(1)
    others = n_represented < n_represented.max()
    best = int(measured.loss.masked_fill(others, torch.inf).argmin())
    model = copy.deepcopy(recipe.model)
    for name, parameter in model.named_parameters():
        if name in candidates:
            parameter.copy_(candidates[name][best])
    return Toy(
        recipe.name,
        seed,
        model.eval(),
        recipe.inputs,
        float(measured.loss[best]),
        measured.single_loss[best],
        measured.represented[best],
        drawn.mixing,
    )


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
    """Losses of candidates on fresh inputs, all on the same ones.

    Args:
        recipe: what they were trained on.
        candidates: the model's parameters with a leading candidate axis.
        mixing: A, where there is one.
        generator: source of the inputs.

    Returns:
        The losses.
    """

    def error(x: Tensor) -> tuple[Tensor, Tensor]:
        y = recipe.label(x, mixing)
        outputs = _outputs(recipe, candidates, x)
        return (outputs - y).square().mean((1, 2)), y.square().mean()

    loss, _ = error(recipe.inputs.sample(N_EVALUATION, generator))
    shares = []
    for group in range(recipe.inputs.n_groups):
        own, zero = error(recipe.inputs.single(group, N_SINGLE, generator))
        shares.append(own / zero)
    return Measured(loss, torch.stack(shares, dim=1))
