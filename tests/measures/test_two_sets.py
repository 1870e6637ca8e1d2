import pytest
import torch

from subscape.measures.two_sets import auroc_and_chance, false_discovery, interval, ranks

stats = pytest.importorskip("scipy.stats")


def test_ranks_by_hand():
    rank, ties = ranks(torch.tensor([2.0, 1.0, 2.0, 5.0]))
    assert rank.tolist() == [2.5, 1, 2.5, 4]
    assert ties == 2**3 - 2


def test_auroc_by_hand():
    # Of the six pairs 4 are larger and 1 is equal.
    auroc, _ = auroc_and_chance(torch.tensor([3.0, 2.0]), torch.tensor([1.0, 2.0, 2.5]))
    assert auroc == pytest.approx(4.5 / 6)


def test_chance_is_that_of_mann_and_whitney():
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(0, 6, (30,), generator=generator).double()
    b = torch.randint(1, 8, (45,), generator=generator).double()
    expected = stats.mannwhitneyu(a, b, method="asymptotic")
    auroc, p = auroc_and_chance(a, b)
    assert auroc == pytest.approx(expected.statistic / (30 * 45))
    assert p == pytest.approx(expected.pvalue, rel=1e-9)


def test_values_that_are_all_equal_tell_nothing():
    assert auroc_and_chance(torch.ones(9), torch.ones(8)) == (0.5, 1.0)


def test_an_interval_covers_as_often_as_it_says():
    generator = torch.Generator().manual_seed(1)
    # Of exponentials with rates 1 and 1/4 the first is larger with probability 1/5.
    inside = 0
    for _ in range(400):
        a = torch.empty(20, dtype=torch.float64).exponential_(1, generator=generator)
        b = torch.empty(30, dtype=torch.float64).exponential_(0.25, generator=generator)
        low, high = interval(auroc_and_chance(a, b)[0], 20, 30)
        inside += low <= 0.2 <= high
    assert 0.92 <= inside / 400 <= 0.98


def test_an_interval_has_a_width_at_the_ends():
    low, high = interval(1.0, 10, 10)
    assert high == 1
    assert 0.6 < low < 0.9
    assert interval(0.0, 10, 10) == pytest.approx((0, 1 - low))


def test_false_discovery_by_hand_and_by_scipy():
    p = torch.tensor([0.01, 0.04, 0.03, 0.5], dtype=torch.float64)
    assert false_discovery(p).tolist() == pytest.approx([0.04, 0.16 / 3, 0.16 / 3, 0.5])
    expected = stats.false_discovery_control(p.numpy())
    assert false_discovery(p).tolist() == pytest.approx(expected.tolist())
