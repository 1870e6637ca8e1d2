import pytest
import torch

from subscape.toys import SparseInputs


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_sample_has_no_zero_rows_and_groups_act_together():
    inputs = SparseInputs(n_features=6, group_size=2, probability=0.1, low=-1.0, high=1.0)
    x = inputs.sample(1000, generator())
    assert x.shape == (1000, 6)
    assert (x != 0).any(1).all()
    assert ((x[:, 0::2] != 0) == (x[:, 1::2] != 0)).all()
    assert x.min() < -0.9
    assert x.max() > 0.9
    assert (x.abs() <= 1).all()


def test_sample_keeps_the_probability_of_a_group_given_that_one_is_active():
    inputs = SparseInputs(n_features=2, probability=0.5)
    share = (inputs.sample(20_000, generator()) != 0).float().mean(0)
    # P(first | any) = 0.5 / (1 - 0.25) = 2/3.
    assert share.tolist() == pytest.approx([2 / 3, 2 / 3], abs=0.02)


def test_single_activates_one_group_only():
    inputs = SparseInputs(n_features=6, group_size=2)
    x = inputs.single(1, 50, generator())
    assert (x[:, 2:4] > 0).all()
    assert (x[:, [0, 1, 4, 5]] == 0).all()
    assert inputs.active_groups(x).float().mean(0).tolist() == [0, 1, 0]


def test_same_generator_seed_gives_same_inputs():
    inputs = SparseInputs(n_features=5)
    assert torch.equal(inputs.sample(64, generator(3)), inputs.sample(64, generator(3)))
    assert not torch.equal(inputs.sample(64, generator(3)), inputs.sample(64, generator(4)))
    with pytest.raises(ValueError, match="group_size: expected a divisor of n_features=5; got 2"):
        SparseInputs(n_features=5, group_size=2)
    with pytest.raises(ValueError, match="one of 0..4"):
        SparseInputs(n_features=5).single(5, 1, generator())


def test_correlated_features_are_on_together_in_that_share_of_their_rows():
    inputs = SparseInputs(n_features=3, probability=0.4, correlation=0.5)
    on = inputs.sample(40_000, generator()) != 0
    first, second, third = (on[:, i].double() for i in range(3))
    assert float((first * second).sum() / first.sum()) == pytest.approx(0.5, abs=0.02)
    assert float((first * second).sum() / second.sum()) == pytest.approx(0.5, abs=0.02)
    # P(any) = 1 − P(neither of two) P(not the third) = 1 − (1 − 0.4 − 0.2) · 0.6 = 0.76.
    rates = [float(feature.mean()) for feature in (first, second, third)]
    assert rates == pytest.approx([0.4 / 0.76] * 3, abs=0.02)
    with pytest.raises(ValueError, match="correlation: expected in"):
        SparseInputs(n_features=3, correlation=1.5)


def test_the_first_feature_in_other_units():
    plain, scaled = SparseInputs(n_features=3), SparseInputs(n_features=3, first_scale=100.0)
    factors = torch.tensor([100.0, 1.0, 1.0])
    assert torch.equal(plain.sample(50, generator()) * factors, scaled.sample(50, generator()))
    assert torch.equal(plain.single(0, 9, generator()) * 100, scaled.single(0, 9, generator()))
