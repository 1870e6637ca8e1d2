"""X -> X²: a deep network squares each of five sparse inputs in U(-1, 1), one circuit per input.

Two targets, as paper and code disagree (arXiv 2504.00194, sec. 4.1.4): `paper` has four hidden layers of
width 5 with GELU and linear outputs, `code` has width 10 and ELU after every layer, the last included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Generator
from torch.nn import functional

from subscape._checks import nearest, require
from subscape.toys.inputs import SparseInputs
from subscape.toys.networks import Perceptron, xavier_normal
from subscape.toys.recipe import Parameters, Recipe
from subscape.toys.toy import Toy
from subscape.toys.training import Maker, ToyTraining, train_many

Variant = Literal["paper", "code"]
N_HIDDEN_LAYERS = 4
PAPER_TRAINING = ToyTraining(n_steps=4000, learning_rate=0.03, n_candidates=8)
CODE_TRAINING = ToyTraining(n_steps=2500, learning_rate=0.02, n_candidates=2)


@Maker
def squared(
    seeds: Sequence[int],
    n_features: int = 5,
    variant: Variant = "paper",
    *,
    probability: float = 0.05,
    training: ToyTraining | None = None,
) -> list[Toy]:
    """Train one squaring network per seed, side by side.

    Args:
        seeds: one per toy.
        n_features: number of inputs and outputs.
        variant: `paper` or `code`, see the module.
        probability: probability that an input is active.
        training: how to train; None takes `PAPER_TRAINING` (width 5 often loses a feature, so it needs
            more candidates) or `CODE_TRAINING`.
    """
    inputs = SparseInputs(n_features, probability=probability, low=-1.0, high=1.0)
    known = get_args(Variant)
    repair = nearest(variant, known)
    require(variant in known, "variant", "'paper' or 'code'", variant, repair)
    if variant == "paper":
        width, activation, default = n_features, functional.gelu, PAPER_TRAINING
    else:
        width, activation, default = 2 * n_features, functional.elu, CODE_TRAINING
    last = variant == "code"
    model = Perceptron(n_features, width, N_HIDDEN_LAYERS, activation, activate_last=last)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}

    def initial(generator: Generator) -> Parameters:
        return {
            name: xavier_normal(*shape, generator) if len(shape) == 2 else torch.zeros(shape)
            for name, shape in shapes.items()
        }

    recipe = Recipe(f"squared-{variant}", model, inputs, initial, lambda x, _: x.square())
    return train_many(recipe, seeds, training or default)
