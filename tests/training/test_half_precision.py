"""Models in half precision are decomposed in float32, whatever makes their row gradients."""

import pytest
import torch
from torch import nn

from subscape import decompose

OPTIONS = {"n_subnetworks": 3, "rank": 1, "steps": 4, "batch_size": 8, "n_heldout_rows": 16}


@pytest.mark.parametrize("engine", ["auto", "jacobian", "rule", "replay", "vmap", "loop"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_engine_works_in_float32(engine, dtype):
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)
    data = torch.randn(40, 4).to(dtype)
    found = decompose(model, data, engine=engine, progress=False, **OPTIONS)
    assert found.decoder.weights.dtype == torch.float32
    assert 0 < found.metrics["fvu"] < 1.5
    assert {p.dtype for p in model.parameters()} == {dtype}
