"""X -> AX with A ~ U(0, 3), by the network of TMS, untied: circuits that share parameters.

`tmcs`, the toy model of circuit superposition: every output mixes all features (arXiv 2504.00194, sec.
4.1.2). `high_rank`: features in groups that are active together; a circuit serves a whole group, so it has
rank five in every matrix (sec. 4.1.3; the authors' script has 30 inputs). As A and X are non-negative, the
ReLU at the outputs is mostly open.
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
TMCS_TRAINING = ToyTraining(n_steps=1500, learning_rate=0.02, n_candidates=4)
HIGH_RANK_TRAINING = ToyTraining(n_steps=3000, learning_rate=0.03, n_candidates=2)


@Maker
def tmcs(
    seeds: Sequence[int],
    n_features: int = 10,
    n_hidden: int = 5,
    n_outputs: int | None = None,
    *,
    probability: float = 0.05,
    training: ToyTraining = TMCS_TRAINING,
) -> list[Toy]:
    """Train one toy model of circuit superposition per seed, side by side.

    Args:
        seeds: one per toy; each has its own A, in `Toy.mixing`.
        n_features: number of features.
        n_hidden: width of the bottleneck.
        n_outputs: number of outputs; as many as features if None.
        probability: probability that a feature is active.
        training: how to train; the best of its candidates is kept per seed.
    """
    inputs = SparseInputs(n_features, probability=probability)
    return train_many(_recipe("tmcs", inputs, n_hidden, n_outputs), seeds, training)


@Maker
def high_rank(
    seeds: Sequence[int],
    n_features: int = 25,
    n_hidden: int = 10,
    group_size: int = 5,
    *,
    probability: float = 0.05,
    training: ToyTraining = HIGH_RANK_TRAINING,
) -> list[Toy]:
    """Train one target with high-rank circuits per seed, side by side.

    Args:
        seeds: one per toy; each has its own A, in `Toy.mixing`.
        n_features: number of features and of outputs.
        n_hidden: width of the bottleneck.
        group_size: features that are active together.
        probability: probability that a group is active.
        training: how to train; the best of its candidates is kept per seed.
    """
    inputs = SparseInputs(n_features, group_size, probability)
    return train_many(_recipe("high-rank", inputs, n_hidden), seeds, training)


def _recipe(kind: str, inputs: SparseInputs, n_hidden: int, n_outputs: int | None = None) -> Recipe:
    n_in = inputs.n_features
    n_out = n_in if n_outputs is None else n_outputs

    def initial(generator: Generator) -> Parameters:
        return {
            "W_in": xavier_normal(n_hidden, n_in, generator),
            "W_out": xavier_normal(n_out, n_hidden, generator),
            "bias": torch.zeros(n_out),
        }

    def mixing(generator: Generator) -> Tensor:
        return MAX_COEFFICIENT * torch.rand(n_out, n_in, generator=generator)

    def label(x: Tensor, mixing: Tensor | None) -> Tensor:
        assert mixing is not None
        return x @ mixing.mT

    name = f"{kind}-{n_in}-{n_hidden}" + ("" if n_out == n_in else f"-{n_out}")
    model = Bottleneck(n_in, n_hidden, n_out)
    return Recipe(name, model, inputs, initial, label, mixing=mixing)
