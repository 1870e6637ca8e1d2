"""The core once through on an accelerator, with the numbers of the CPU."""

import pytest
import torch
from torch import nn

from subscape import Decomposition, Target, decompose, measure

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator"),
]
OPTIONS = {"n_subnetworks": 6, "rank": 1, "steps": 40, "batch_size": 16, "progress": False}


def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 3)).double()


@pytest.mark.parametrize("engine", ["jacobian", "rule", "replay", "vmap", "loop"])
@pytest.mark.parametrize("metric", ["euclidean", "kronecker"])
def test_training_on_an_accelerator_is_training_on_the_cpu(engine, metric):
    data = torch.randn(200, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    options = OPTIONS | {"engine": engine, "metric": metric, "reference": "mean"}
    here = decompose(model(), data, **options)
    there = decompose(model().cuda(), data, **options)
    assert there.decoder.weights.device.type == "cuda"
    torch.testing.assert_close(
        there.decoder.weights.cpu(), here.decoder.weights, rtol=1e-5, atol=1e-6
    )
    assert there.metrics["fvu"] == pytest.approx(here.metrics["fvu"], rel=1e-5)


def test_a_saved_decomposition_follows_the_model(tmp_path):
    data = torch.randn(200, 5, dtype=torch.float64)
    found = decompose(model(), data, **OPTIONS)
    found.save_pretrained(tmp_path / "found")
    loaded = Decomposition.from_pretrained(tmp_path / "found", device="cuda")
    on_device = model().cuda()
    codes = loaded.encode(on_device, data[:32])
    torch.testing.assert_close(codes.cpu(), found.encode(model(), data[:32]))
    torch.testing.assert_close(found.encode(on_device, data[:32]), codes)  # from the CPU
    measures = measure(loaded, Target(on_device), data, progress=False)
    assert len(measures) == 6
    with loaded.edit(on_device, {0: 0.1}):
        pass
    loaded.verify(Target(on_device))
