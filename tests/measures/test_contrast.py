import pytest
import torch
from torch import nn

import subscape
from subscape import FixedOutput, Target
from subscape.divergences import MSE
from subscape.measures.contrast import FEWEST, contrast
from tests.subnetworks.conftest import untrained_of


@pytest.fixture
def case():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double().eval()
    found = untrained_of(Target(model), 5, settings={"divergence": "mse", "reference": "uniform"})
    a = torch.randn(40, 4).double() + torch.tensor([2.0, 0, 0, 0])
    return model, found, a, torch.randn(30, 4).double()


def test_every_subnetwork_has_its_figures(case):
    model, found, a, b = case
    result = contrast(found, model, a, b)
    assert sorted(d.index for d in result.differences) == [0, 1, 2, 3, 4]
    assert (result.n_a, result.n_b) == (40, 30)
    sizes = [abs(d.auroc - 0.5) for d in result.differences]
    assert sizes == sorted(sizes, reverse=True)
    for d in result.differences:
        assert d.low <= d.auroc <= d.high
        assert d.q >= d.p
    assert {d.index for d in result.told_apart} == {
        d.index for d in result.differences if d.q <= 0.05
    }
    assert subscape.contrast is contrast


def test_what_is_compared_is_the_coefficient_of_every_sample(case):
    model, found, a, b = case
    fixed = found.__class__(
        found.dictionary,
        found.target,
        found.settings,
        reference=FixedOutput(torch.zeros(3).double()),
    )
    result = contrast(fixed, model, a, b)
    source = fixed.source(model, a)
    expected = fixed.coefficients(source.gradients(source.rows_of(torch.arange(40))))
    means = {d.index: d.mean_a for d in result.differences}
    assert [means[k] for k in range(5)] == pytest.approx(expected.mean(0).tolist())


def test_turning_a_into_b_is_the_slope_of_a_finite_push(case):
    model, found, a, b = case
    result = contrast(found, model, a, b)
    with torch.no_grad():
        middle = model(b).mean(0)
        for d in result.differences:
            values = []
            for delta in (1e-4, -1e-4):
                with found.edit(model, {d.index: delta}):
                    values.append(float(MSE(model(a), middle.expand(40, 3)).mean()))
            assert d.turn == pytest.approx((values[1] - values[0]) / 2e-4, rel=1e-4, abs=1e-8)


def test_sets_of_one_kind_are_not_told_apart(case):
    model, found, _, b = case
    other = torch.randn(30, 4).double()
    result = contrast(found, model, other, b)
    assert result.told_apart == []
    assert str(result) == (
        "0 of 5 subnetworks tell 30 samples of A from 30 of B, at most 5% by chance"
    )


def test_copies_count_once(case):
    model, found, a, b = case
    once, twice = (contrast(found, model, x, b) for x in (a, torch.cat([a, a])))
    assert twice.n_a == 40
    assert once == twice


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, b: (a, torch.cat([b, a[:3]])), "^b: expected samples that are not in a; got 3"),
        (lambda a, b: (a[: FEWEST - 1], b), "^a: expected at least 8 different samples; got 7"),
        (lambda a, b: (a, b[:1].repeat(50, 1)), "^b: expected at least 8 .*; got 1 of 50"),
        (lambda a, b: (a, {"x": b}), "^b: expected samples made of the same tensors"),
    ],
)
def test_sets_that_cannot_be_compared_are_refused(case, change, message):
    model, found, a, b = case
    with pytest.raises(ValueError, match=message):
        contrast(found, model, *change(a, b))


def test_a_level_is_a_share(case):
    model, found, a, b = case
    with pytest.raises(ValueError, match="^level: expected a share"):
        contrast(found, model, a, b, level=1.0)
