"""A model whose subnetworks are known exactly: a diagonal layer, one circuit an entry, inputs with one feature."""

from dataclasses import replace

import pytest
import torch
from torch import nn

N = 6
"""Features, and circuits."""


def diagonal():
    model = nn.Sequential(nn.Linear(N, N, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.diag(1 + torch.arange(N) / N))
    return model.eval()


def one_feature(n, seed=0):
    """Inputs with one feature of size 1 to 2, and which it is."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % N
    size = 1 + torch.rand(n, generator=generator)
    return nn.functional.one_hot(labels, N) * size[:, None], labels


@pytest.fixture(scope="session")
def truth():
    """Model, true decomposition (entry k of the diagonal is subnetwork k), inputs and their features."""
    from subscape import Decomposition, Target
    from subscape.lowrank import make_layout
    from subscape.lowrank.project import project
    from subscape.subnetworks.dictionary import Dictionary
    from subscape.subnetworks.selection import BatchTopK

    model = diagonal()
    target = Target(model)
    directions = torch.diag_embed(torch.eye(N)).flatten(1)
    stack = project(make_layout(target.shapes, 1), directions)
    selection = BatchTopK(1.0, torch.Size([N]), stack.weights)
    selection.threshold.fill_(1e-3)
    dictionary = Dictionary(stack, stack, selection).requires_grad_(False)
    settings = {
        **dict(n_subnetworks=N, rank=1, l0=1.0, steps=60, batch_size=16, n_heldout_rows=32),
        **dict(reference="uniform", divergence="mse", rows="sample"),
        **dict(row_weight="norm", metric="euclidean", metric_power=0.5, metric_damping=0.01),
    }
    made = Decomposition(dictionary, target.fingerprint(), settings)
    inputs, labels = one_feature(480)
    return model, made, inputs, labels


@pytest.fixture
def other_way_round(truth):
    """The same subnetworks in reverse order."""
    from subscape.lowrank import Stack
    from subscape.subnetworks.dictionary import Dictionary

    made = truth[1]
    stack = Stack(made.layout, made.decoder.weights.flip(0))
    dictionary = Dictionary(stack, stack, made.dictionary.selection).requires_grad_(False)
    return replace(made, dictionary=dictionary)
