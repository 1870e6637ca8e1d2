"""A small network with random subnetworks, and what it is to learn."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from subscape import Target
from tests.subnetworks.conftest import untrained_of


@dataclass
class Case:
    """A model, a decomposition of it, and labels that it gives at known coefficients."""

    model: Any
    found: Any
    x: Any
    y: Any
    deltas: dict[int, float]


@pytest.fixture
def case():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double().eval()
    found = untrained_of(Target(model), 5, settings={"divergence": "mse"})
    x, deltas = torch.randn(60, 4).double(), {1: 0.8, 3: -0.5}
    with found.edit(model, deltas), torch.no_grad():
        y = model(x)
    return Case(model, found, x, y, deltas)
