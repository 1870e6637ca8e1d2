"""A measured decomposition of a small classifier, of which a few rows were pushed."""

import pytest
import torch
from torch import nn


@pytest.fixture(scope="session")
def measured():
    from subscape import decompose, measure

    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    inputs = torch.rand(60, 6)
    sizes = dict(n_subnetworks=4, rank=1, active_fraction=0.3, steps=20, batch_size=16)
    found = decompose(model, inputs, divergence="kl", n_heldout_rows=20, progress=False, **sizes)
    few = dict(n_rows=60, n_references=2, n_top=4, n_others=12, n_deltas=2, progress=False)
    names = dict(output_names=lambda i: f"class {i}", labels=torch.arange(60) % 3)
    return found, measure(found, model, inputs, **names, **few), model
