"""The toy model of superposition: x -> ReLU(W_out W_in x + b) reconstructs sparse features.

Trained with W_out = W_inᵀ, decomposed untied (arXiv 2504.00194, sec. 4.1.1). One circuit per feature.

`tms_identity`: with a W_hidden in the bottleneck that stays at the identity in training and is decomposed with
the rest, as in APD and SPD. It serves every feature alike, so features share it. `tms_parallel`: copies of one
trained model as the blocks of one dense network, as in the authors' code; all entries are decomposed.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Generator

from subscape._checks import require
from subscape.toys.inputs import SparseInputs
from subscape.toys.networks import Bottleneck, xavier_normal
from subscape.toys.recipe import Parameters, Recipe
from subscape.toys.toy import Toy
from subscape.toys.training import Maker, ToyTraining, best_of, train_many

DEFAULT_TRAINING = ToyTraining()
LARGE_TRAINING = ToyTraining(n_steps=2500, learning_rate=0.03, n_candidates=2)
"""For 40 features in 10 dimensions, where no candidate drops a feature."""


@Maker
def tms(
    seeds: Sequence[int],
    n_features: int = 5,
    n_hidden: int = 2,
    *,
    probability: float = 0.05,
    signed: bool = False,
    correlation: float | None = None,
    large_input: float = 1.0,
    training: ToyTraining = DEFAULT_TRAINING,
) -> list[Toy]:
    """Train one toy model of superposition per seed, side by side.

    Args:
        seeds: one per toy.
        n_features: number of features.
        n_hidden: width of the bottleneck.
        probability: probability that a feature is active.
        signed: inputs of both signs, of which the outputs, behind a ReLU, are to be the positive parts.
        correlation: share of its rows in which the second feature is active where the first is.
        large_input: multiplies the first input and divides its weights after training: the same function of
            an input in other units.
        training: how to train; the best of its candidates is kept per seed.
    """
    require(large_input > 0, "large_input", "a positive number", large_input)
    recipe = _recipe(n_features, n_hidden, probability)
    inputs = replace(recipe.inputs, low=-1.0 if signed else 0.0, correlation=correlation)
    recipe = replace(recipe, inputs=inputs, label=lambda x, _: x.relu())
    toys = [replace(t, positive_only=signed) for t in train_many(recipe, seeds, training)]
    return toys if large_input == 1 else [_in_other_units(toy, large_input) for toy in toys]


def _in_other_units(toy: Toy, scale: float) -> Toy:
    """The same network for a first input that is `scale` times as large."""
    model = copy.deepcopy(toy.model)
    with torch.no_grad():
        dict(model.named_parameters())["W_in"][:, 0] /= scale
    return replace(toy, model=model, inputs=replace(toy.inputs, first_scale=scale))


@Maker
def tms_identity(
    seeds: Sequence[int],
    n_features: int = 5,
    n_hidden: int = 2,
    *,
    probability: float = 0.05,
    training: ToyTraining = DEFAULT_TRAINING,
) -> list[Toy]:
    """Train one TMS with a hidden identity layer per seed, side by side.

    Args:
        seeds: one per toy.
        n_features: number of features.
        n_hidden: width of the bottleneck and of W_hidden.
        probability: probability that a feature is active.
        training: how to train; the best of its candidates is kept per seed.
    """
    recipe = _recipe(n_features, n_hidden, probability, hidden_layer=True)
    return train_many(recipe, seeds, training)


@Maker
def tms_parallel(
    seeds: Sequence[int],
    n_features: int = 5,
    n_hidden: int = 2,
    n_copies: int = 3,
    *,
    probability: float = 0.05,
    training: ToyTraining = DEFAULT_TRAINING,
) -> list[Toy]:
    """Train one toy model of superposition per seed and set copies of it side by side.

    Args:
        seeds: one per toy.
        n_features: features of one copy.
        n_hidden: width of the bottleneck of one copy.
        n_copies: number of copies.
        probability: probability that a feature is active.
        training: how to train; the best of its candidates is kept per seed.
    """
    name = f"tms-parallel-{n_copies}x{n_features}-{n_hidden}"
    whole = _recipe(n_features * n_copies, n_hidden * n_copies, probability)
    toys = []
    for block in tms.many(seeds, n_features, n_hidden, probability=probability, training=training):
        copies = {k: [p.detach()] * n_copies for k, p in block.model.named_parameters()}
        parameters = {
            k: torch.cat(v) if v[0].dim() == 1 else torch.block_diag(*v) for k, v in copies.items()
        }
        one = {k: values[None] for k, values in parameters.items()}
        generator = torch.Generator().manual_seed(block.seed)
        toys.append(best_of(replace(whole, name=name), block.seed, one, None, generator))
    return toys


def _recipe(
    n_features: int, n_hidden: int, probability: float, *, hidden_layer: bool = False
) -> Recipe:
    """The recipe; W_hidden is not trained, so it stays at the identity."""

    def initial(generator: Generator) -> Parameters:
        return {
            "W_in": xavier_normal(n_hidden, n_features, generator),
            "bias": torch.zeros(n_features),
        }

    return Recipe(
        f"tms-{n_features}-{n_hidden}" + ("-identity" if hidden_layer else ""),
        Bottleneck(n_features, n_hidden, hidden_layer=hidden_layer),
        SparseInputs(n_features, probability=probability),
        initial,
        label=lambda x, _: x,
        complete=lambda free: free | {"W_out": free["W_in"].mT},
    )
