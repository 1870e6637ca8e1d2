"""Decompositions without training, and sources whose row gradients are the rows given."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from subscape import Decomposition, GradientSource, Target
from subscape.lowrank import initial_stack, make_layout
from subscape.subnetworks.dictionary import Dictionary
from subscape.subnetworks.selection import SELECTIONS, JumpReLU


def untrained_of(
    target: Target,
    k: int = 5,
    *,
    rank: Any = 2,
    form: str = "tucker",
    selection: str = "batch-top-k",
    threshold: float = 0.1,
    **fields: Any,
) -> Decomposition:
    layout = make_layout(target.shapes, rank, form)
    stacks = [
        initial_stack(layout, (k,), torch.Generator().manual_seed(seed), target.like)
        for seed in (0, 1)
    ]
    chosen = SELECTIONS[selection](1.0, torch.Size([k]), target.like)
    cut = torch.tensor(threshold, dtype=torch.float64)
    with torch.no_grad():
        if isinstance(chosen, JumpReLU):
            chosen.log_threshold.copy_(cut.log() + 0.1 * torch.arange(k))
        else:
            chosen.threshold.copy_(cut)
    dictionary = Dictionary(*stacks, chosen).requires_grad_(False)
    return Decomposition(dictionary, target.fingerprint(), **fields)


@pytest.fixture(scope="session")
def untrained() -> Callable[..., Decomposition]:
    """A decomposition with directions drawn at random."""
    return untrained_of


class Weights(nn.Module):
    """f(x) = w · x, so that with a divergence of f itself a row's gradient is its input."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(n, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.w)[:, None]


def output_itself(outputs: Tensor, reference: Tensor) -> Tensor:
    return outputs[:, 0]


def source_with(rows: list[list[float]], **options: Any) -> GradientSource:
    data = torch.tensor(rows, dtype=torch.float64)
    given = {"divergence": output_itself, "reference": "uniform"} | options
    return GradientSource(Target(Weights(data.shape[1])), data, **given)


@pytest.fixture(scope="session")
def source_of() -> Callable[..., GradientSource]:
    """A source whose row gradients are the rows given."""
    return source_with
