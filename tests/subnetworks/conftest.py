"""Decompositions without training, and sources whose row gradients are the rows given."""

import pytest
import torch
from torch import nn

from subscape import Decomposition, GradientSource, Target
from subscape.lowrank import initial_stack, make_layout
from subscape.subnetworks.dictionary import Dictionary
from subscape.subnetworks.selection import SELECTIONS, JumpReLU


def untrained_of(
    target, k=5, *, rank=2, form="tucker", selection="batch-top-k", threshold=0.1, **fields
):
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
def untrained():
    """A decomposition with directions drawn at random."""
    return untrained_of


class Weights(nn.Module):
    """f(x) = w · x, so that with a divergence of f itself a row's gradient is its input."""

    def __init__(self, n):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(n, dtype=torch.float64))

    def forward(self, x):
        return (x @ self.w)[:, None]


def output_itself(outputs, reference):
    return outputs[:, 0]


def source_with(rows, **options):
    data = torch.tensor(rows, dtype=torch.float64)
    given = {"divergence": output_itself, "reference": "uniform"} | options
    return GradientSource(Target(Weights(data.shape[1])), data, **given)


@pytest.fixture(scope="session")
def source_of():
    """A source whose row gradients are the rows given."""
    return source_with
