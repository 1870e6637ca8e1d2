"""The toy model of superposition: x -> ReLU(W_out W_in x + b) reconstructs sparse features.

Trained with W_out = W_inᵀ, decomposed untied (arXiv 2504.00194, sec. 4.1.1). One circuit per feature.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from subscape.toys.inputs import SparseInputs
from subscape.toys.networks import Bottleneck, xavier_normal
from subscape.toys.recipe import Parameters, Recipe
from subscape.toys.toy import Toy
from subscape.toys.training import Maker, ToyTraining, train_many

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
    training: ToyTraining = DEFAULT_TRAINING,
) -> list[Toy]:
    """Train one toy model of superposition per seed, side by side.

    Args:
        seeds: one per toy.
        n_features: number of features.
        n_hidden: width of the bottleneck.
        probability: probability that a feature is active.
        training: how to train; the best of its candidates is kept per seed.

    Returns:
        The toys.
    """
    return train_many(tms_recipe(n_features, n_hidden, probability), seeds, training)


def tms_recipe(
    n_features: int, n_hidden: int, probability: float, *, hidden_layer: bool = False
) -> Recipe:
    """The recipe; with a hidden layer, W_hidden, fixed at the identity, stands in the bottleneck."""

    def initial(generator: Generator) -> Parameters:
        return {
            "W_in": xavier_normal(n_hidden, n_features, generator),
            "bias": torch.zeros(n_features),
        }

    name = f"tms-{n_features}-{n_hidden}" + ("-identity" if hidden_layer else "")
    return Recipe(
        name,
        Bottleneck(n_features, n_hidden, hidden_layer=hidden_layer),
        SparseInputs(n_features, probability=probability),
        initial,
        _same,
        _untie,
    )


def _untie(free: Parameters) -> Parameters:
    return free | {"W_out": free["W_in"].mT}


def _same(x: Tensor, _mixing: Tensor | None) -> Tensor:
    return x
