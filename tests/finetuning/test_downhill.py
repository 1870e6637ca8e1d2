"""A direction down a loss, in the metric: by the formula, and at the ranks asked for."""

import pytest
import torch
from torch import nn

from subscape import Target, decompose
from subscape.finetuning.downhill import cut_to_ranks, downhill
from subscape.subnetworks.editing import Edit

FEW = {"steps": 2, "progress": False, "n_heldout_rows": 16, "batch_size": 16, "n_subnetworks": 3}


@pytest.fixture
def case():
    torch.manual_seed(0)
    model = nn.Linear(5, 4, bias=False).double()
    x = torch.randn(80, 5).double() * torch.tensor([3.0, 1, 1, 1, 0.3])
    return model, x


def squares(outputs, batch):
    return outputs.square().mean()


def test_it_is_the_gradient_in_the_metric(case):
    model, x = case
    found = decompose(model, x, rank=4, recipe="whitened", **FEW)
    (change,) = downhill(found, model, x[:10], squares, batch_size=3).values()
    weight = model.weight.detach().requires_grad_(True)
    (slope,) = torch.autograd.grad((x[:10] @ weight.mT).square().mean(), weight)
    assert found.geometry.metric is not None
    left, right = found.geometry.metric.tensors["weight"].modes
    expected = nn.functional.normalize(-(left @ left @ slope @ right @ right).flatten(), dim=0)
    torch.testing.assert_close(change.flatten(), expected)
    assert model.weight.grad is None


def test_without_a_metric_it_is_the_plain_gradient_cut_to_the_rank(case):
    model, x = case
    found = decompose(model, x, rank=1, recipe="published", **FEW)
    change = downhill(found, Target(model), x, squares)
    assert torch.linalg.matrix_rank(change["weight"], rtol=1e-8) == 1
    assert float(change["weight"].norm()) == pytest.approx(1)
    with torch.no_grad():
        before = squares(model(x), x)
        with Edit(model, {"weight": 0.01 * change["weight"]}):
            assert squares(model(x), x) < before


def test_a_cut_keeps_the_largest_singular_values(case):
    model, x = case
    found = decompose(model, x, rank=1, recipe="published", **FEW)
    values = torch.diag(torch.tensor([1.0, 3.0, 2.0, 0.5]).double())
    values = torch.cat([values, torch.zeros(4, 1).double()], dim=1)
    cut = cut_to_ranks({"weight": values}, found.layout)["weight"]
    expected = torch.zeros(4, 5).double()
    expected[1, 1] = 3.0
    torch.testing.assert_close(cut, expected)


def test_what_goes_wrong_is_said(case):
    model, x = case
    found = decompose(model, x, rank=1, **FEW)
    with pytest.raises(ValueError, match="^loss: expected a finite number; got nan"):
        downhill(found, model, x, lambda outputs, batch: outputs.mean() * torch.nan)
    with pytest.raises(ValueError, match="^target: "):
        downhill(found, nn.Linear(5, 4, bias=False).double(), x, squares)
