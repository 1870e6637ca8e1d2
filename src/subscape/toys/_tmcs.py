"""The toy model of circuit superposition: the network of TMS, untied, learns X -> AX, A ~ U(0, 3).

The circuits share parameters, as every output mixes all features (arXiv 2504.00194, sec. 4.1.2). The
high-rank toy is the same with features that are active in groups. As A and X are non-negative, the ReLU
at the outputs is mostly open.
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

MAX_COEFFICIENT = 3.0
"""Upper end of the entries of A."""
DEFAULT_TRAINING = ToyTraining(n_steps=1500, learning_rate=0.02, n_candidates=4)


@Maker
def tmcs(
    seeds: Sequence[int],
    n_features: int = 10,
    n_hidden: int = 5,
    *,
    probability: float = 0.05,
    training: ToyTraining = DEFAULT_TRAINING,
) -> list[Toy]:
    """Train one toy model of circuit superposition per seed, side by side.

    Args:
        seeds: one per toy; each has its own A, in `Toy.mixing`.
        n_features: number of features and of outputs.
        n_hidden: width of the bottleneck.
        probability: probability that a feature is active.
        training: how to train; the best of its candidates is kept per seed.

    Returns:
        The toys.
    """
    inputs = SparseInputs(n_features, probability=probability)
    return train_many(mixing_recipe("tmcs", inputs, n_hidden), seeds, training)


def mixing_recipe(name: str, inputs: SparseInputs, n_hidden: int) -> Recipe:
    """The recipe for X -> AX with as many outputs as inputs."""
    n = inputs.n_features

    def initial(generator: Generator) -> Parameters:
        return {
            "W_in": xavier_normal(n_hidden, n, generator),
            "W_out": xavier_normal(n, n_hidden, generator),
            "bias": torch.zeros(n),
        }

    def mixing(generator: Generator) -> Tensor:
        return MAX_COEFFICIENT * torch.rand(n, n, generator=generator)

    return Recipe(
        f"{name}-{n}-{n_hidden}", Bottleneck(n, n_hidden), inputs, initial, _mix, mixing=mixing
    )


def _mix(x: Tensor, mixing: Tensor | None) -> Tensor:
    assert mixing is not None
    return x @ mixing.mT
