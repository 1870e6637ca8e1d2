"""Scikit-learn's 8 x 8 digits, and an MLP trained on them for the Local Interaction Basis."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from subscape._checks import optional
from subscape._shapes import Float, Int
from subscape.interaction_basis import ACCURACY, Chain, Scored, Task, sequential_chain
from subscape.interaction_basis.weights import of_model

NAMES = ("pixels", "hidden 1", "hidden 2", "logits")
HIDDEN = 32
STEPS = 1500
BATCH = 128


def load_digits() -> tuple[Float[torch.Tensor, "image pixel"], Int[torch.Tensor, " image"]]:
    """The 1,797 images, in 0 to 1, and what they show."""
    datasets = optional("sklearn.datasets", "for the digits", "'subscape[toys]'")
    images, labels = datasets.load_digits(return_X_y=True)
    return torch.from_numpy(images).float() / 16, torch.from_numpy(labels).long()


def digits_task(seed: int = 0) -> Task:
    """An MLP 64-32-32-10 with ReLU: bases and edges on the digits it is trained on, accuracy on the others.

    The seed draws the weights and the split (four fifths to train on).
    """
    images, labels = load_digits()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=generator)
    train, test = order.split([n := len(images) * 4 // 5, len(images) - n])
    model = _mlp((64, HIDDEN, HIDDEN, 10), generator)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(STEPS):
        batch = train[torch.randint(0, len(train), (BATCH,), generator=generator)]
        loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model, images = model.double().eval(), images.double()
    return Task(
        _chain(model),
        images[train],
        Scored(images[test], labels[test], ACCURACY),
        weights=of_model(model, _chain),
    )


def _chain(model: Any) -> Chain:
    return replace(sequential_chain(model), names=NAMES)


def _mlp(widths: tuple[int, ...], generator: torch.Generator) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in zip(widths[:-1], widths[1:], strict=True):
        linear = nn.Linear(n_in, n_out)
        with torch.no_grad():
            linear.weight.copy_(torch.randn(n_out, n_in, generator=generator) * (2 / n_in) ** 0.5)
            linear.bias.zero_()
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])
