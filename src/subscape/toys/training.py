"""Trains the targets of many seeds side by side, several candidates each, and keeps the best.

Takes a recipe (architecture, inputs, labels, initial values) and seeds; gives one toy per seed. All
parameters have a leading replica axis, seed by candidate; Adam works elementwise and the losses are
summed over replicas, so what a seed becomes does not depend on its neighbours.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Concatenate, Generic, Literal, ParamSpec

import torch
from torch import Generator, Tensor
from torch.optim.lr_scheduler import LambdaLR

from subscape._checks import require
from subscape._shapes import Float
from subscape.toys.recipe import Parameters, Recipe, outputs
from subscape.toys.toy import Toy

Settings = ParamSpec("Settings")
REPRESENTED_SHARE = 0.25
"""A group is represented if its single-group loss is at most this share of that of predicting zero:
an output of half the right size has exactly a quarter."""
N_EVALUATION = 4096
N_SINGLE = 256


@dataclass(frozen=True)
class ToyTraining:
    """How a target is trained: AdamW on a fixed sample."""

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
    schedule: Literal["cosine", "constant"] = "cosine"
    """`cosine` falls to 0 at the end."""
    weight_decay: float = 0.0
    """Of AdamW, per unit of learning rate."""

    def __post_init__(self) -> None:
        require(self.n_steps >= 1, "n_steps", "at least 1", self.n_steps)
        require(self.n_candidates >= 1, "n_candidates", "at least 1", self.n_candidates)
        require(
            self.batch_size <= self.n_samples,
            "batch_size",
            f"at most n_samples={self.n_samples}",
            self.batch_size,
        )


class Maker(Generic[Settings]):
    """A function from seeds to toys: called with one seed it makes one toy, `many` makes one per seed."""

    def __init__(self, many: Callable[Concatenate[Sequence[int], Settings], list[Toy]]) -> None:
        self.many = many
        functools.update_wrapper(self, many)

    def __call__(self, seed: int = 0, *args: Settings.args, **kwargs: Settings.kwargs) -> Toy:
        """Make the toy of one seed, with the same settings as `many`."""
        return self.many([seed], *args, **kwargs)[0]


def train_many(recipe: Recipe, seeds: Sequence[int], training: ToyTraining) -> list[Toy]:
    """Train one toy per seed, all of them in one vectorised run; the best of every seed's candidates."""
    require(len(seeds) > 0, "seeds", "at least one", list(seeds))
    drawn = [_draw(recipe, seed, training) for seed in seeds]
    free = {name: torch.cat([d.free[name] for d in drawn]) for name in drawn[0].free}
    x, y = torch.stack([d.x for d in drawn]), torch.stack([d.y for d in drawn])
    free = _fit(recipe, free, x, y, training)
    trained = {k: v.unflatten(0, (len(seeds), -1)) for k, v in recipe.complete(free).items()}
    return [
        best_of(recipe, seed, {k: v[i] for k, v in trained.items()}, d.mixing, d.evaluation)
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


@torch.enable_grad()
def _fit(
    recipe: Recipe,
    free: Parameters,
    x: Float[Tensor, "seed row feature"],
    y: Float[Tensor, "seed row out"],
    training: ToyTraining,
) -> Parameters:
    free = {name: value.clone().requires_grad_(True) for name, value in free.items()}
    optimiser = torch.optim.AdamW(
        list(free.values()), training.learning_rate, weight_decay=training.weight_decay
    )
    falling = training.schedule == "cosine"
    schedule = LambdaLR(
        optimiser,
        lambda step: (1 + math.cos(math.pi * step / training.n_steps)) / 2 if falling else 1.0,
    )
    size, n_batches = training.batch_size, training.n_samples // training.batch_size
    for step in range(training.n_steps):
        # The sample is in random order, so its slices are as good as random batches.
        first = step % n_batches * size
        batch = slice(first, first + size)
        rows, labels = (t[:, batch].repeat_interleave(training.n_candidates, dim=0) for t in (x, y))
        loss = (outputs(recipe, recipe.complete(free), rows) - labels).square().mean((1, 2)).sum()
        gradients = torch.autograd.grad(loss, list(free.values()))
        for value, gradient in zip(free.values(), gradients, strict=True):
            value.grad = gradient
        optimiser.step()
        schedule.step()
    return {name: value.detach() for name, value in free.items()}


@torch.no_grad()
def best_of(
    recipe: Recipe, seed: int, candidates: Parameters, mixing: Tensor | None, generator: Generator
) -> Toy:
    """The toy of the candidate that represents most groups and has the lowest loss among those.

    Candidates are the leading axis of the parameters; all are measured on the same fresh inputs.
    """

    def errors(x: Tensor) -> tuple[Float[Tensor, " candidate"], Tensor]:
        y = recipe.label(x, mixing)
        own = (outputs(recipe, candidates, x) - y).square().mean((1, 2))
        return own, own / y.square().mean()

    loss, _ = errors(recipe.inputs.sample(N_EVALUATION, generator))
    groups = range(recipe.inputs.n_groups)
    shares = [errors(recipe.inputs.single(group, N_SINGLE, generator))[1] for group in groups]
    single_loss = torch.stack(shares, dim=1)
    represented = single_loss <= REPRESENTED_SHARE
    n_represented = represented.sum(1)
    others = n_represented < n_represented.max()
    best = int(loss.masked_fill(others, torch.inf).argmin())
    model = copy.deepcopy(recipe.model)
    model.load_state_dict({k: v[best] for k, v in candidates.items()}, strict=False)
    return Toy(
        recipe.name,
        seed,
        model.eval(),
        recipe.inputs,
        float(loss[best]),
        single_loss[best],
        represented[best],
        mixing,
    )
