"""X -> X²: a deep network squares each of five sparse inputs in U(-1, 1), one circuit per input.

Paper and code disagree on the network (arXiv 2504.00194, sec. 4.1.4): `paper` has four hidden layers of
width 5 with GELU and linear outputs, `code` has width 10 and ELU after every layer, the last included. Both are
trained as our other toys are. `published` is the network of the code, trained as there: its circuits are closer
to one direction per input than those of `code`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Generator, Tensor
from torch.nn import functional

from subscape._checks import nearest, require
from subscape.toys.inputs import SparseInputs
from subscape.toys.networks import Perceptron, kaiming_normal, xavier_normal
from subscape.toys.recipe import Parameters, Recipe
from subscape.toys.toy import Toy
from subscape.toys.training import Maker, ToyTraining, train_many

Variant = Literal["paper", "code", "published"]
N_HIDDEN_LAYERS = 4
PAPER_TRAINING = ToyTraining(n_steps=4000, learning_rate=0.03, n_candidates=8)
CODE_TRAINING = ToyTraining(n_steps=2500, learning_rate=0.02, n_candidates=2)
PUBLISHED_TRAINING = ToyTraining(
    n_steps=78_000, learning_rate=1e-3, n_candidates=1, schedule="constant", weight_decay=1e-3
)
SMALLEST_BIAS = 0.01
"""Biases of `published` start uniform from here to 1."""


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
        variant: `paper`, `code` or `published`, see the module.
        probability: probability that an input is active.
        training: how to train; None takes `PAPER_TRAINING` (width 5 often loses a feature, so it needs
            more candidates), `CODE_TRAINING` or `PUBLISHED_TRAINING`.
    """
    inputs = SparseInputs(n_features, probability=probability, low=-1.0, high=1.0)
    known = get_args(Variant)
    repair = nearest(variant, known)
    require(variant in known, "variant", f"one of {list(known)}", variant, repair)
    published = variant == "published"
    if variant == "paper":
        width, activation, default = n_features, functional.gelu, PAPER_TRAINING
    else:
        default = PUBLISHED_TRAINING if published else CODE_TRAINING
        width, activation = 2 * n_features, functional.elu
    last = variant != "paper"
    model = Perceptron(n_features, width, N_HIDDEN_LAYERS, activation, activate_last=last)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    weight = kaiming_normal if published else xavier_normal

    def bias(shape: tuple[int, ...], generator: Generator) -> Tensor:
        if not published:
            return torch.zeros(shape)
        return SMALLEST_BIAS + (1 - SMALLEST_BIAS) * torch.rand(shape, generator=generator)

    def initial(generator: Generator) -> Parameters:
        return {
            name: weight(*shape, generator) if len(shape) == 2 else bias(shape, generator)
            for name, shape in shapes.items()
        }

    recipe = Recipe(f"squared-{variant}", model, inputs, initial, lambda x, _: x.square())
    return train_many(recipe, seeds, training or default)
