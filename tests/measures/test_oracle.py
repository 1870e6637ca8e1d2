from itertools import combinations

import pytest
import torch

from subscape.measures.oracle import (
    best_subsets,
    oracle,
    pca_fvu,
    pca_fvu_of_grams,
    principal_directions,
)
from subscape.subnetworks.sparse_codes import pursuit, spread


def test_orthogonal_and_other_directions_by_hand():
    # Energies 9 + 1 and 4 + 4, the last axis of each row out of reach: 0 and 2. Total 20.
    g = torch.tensor([[3.0, 1.0, 0.0], [2.0, 2.0, 2**0.5]])
    t = torch.eye(3)[:2]
    # Budget 1: row 0 takes its 9. Budget 2: 9 + 4, 3: 9 + 4 + 4, 4: all 18.
    first = {0: (0, [0, 0]), 0.5: (9, [1, 0]), 1: (13, [1, 1]), 1.5: (17, [1, 2])}
    for l0, (reached, n_active) in (first | {2: (18, [2, 2]), 5: (18, [2, 2])}).items():
        found = oracle(g, t, l0)
        assert found.fvu == pytest.approx(1 - reached / 20)
        assert found.n_active.tolist() == n_active
        assert found.l0 == pytest.approx(sum(n_active) / 2)
        assert found.exhaustive
    # t_0 = (1, 0), t_1 along (1, 1): g = (2, 1) is t_0 + (1, 1) exactly; alone, t_0 explains 4 of 5 and
    # t_1 (3/√2)² = 4.5 of 5.
    g, t = torch.tensor([[2.0, 1.0]]), torch.tensor([[5.0, 0.0], [1.0, 1.0]])
    assert oracle(g, t, 1).fvu == pytest.approx(0.1)
    assert oracle(g, t, 2).fvu == pytest.approx(0, abs=1e-12)


def random_problem(rows, n, m):
    g = torch.Generator().manual_seed(0)
    t = torch.randn(m, n, generator=g).double()
    return torch.randn(rows, n, generator=g).double(), t / t.norm(dim=1, keepdim=True)


def test_best_subsets_are_the_least_squares_of_every_subset():
    g, t = random_problem(4, 8, 6)
    for size in (1, 2, 3):
        expected = []
        for row in g:
            fits = []
            for subset in combinations(range(6), size):
                basis, _ = torch.linalg.qr(t[list(subset)].mT)
                fits.append((row @ basis).square().sum())
            expected.append(max(fits))
        found = best_subsets(g @ t.mT, t @ t.mT, size)
        torch.testing.assert_close(found, torch.stack(expected))


def test_orthogonal_least_squares_is_never_better_and_ends_at_the_full_span():
    g, t = random_problem(20, 8, 6)
    greedy = pursuit(g @ t.mT, t @ t.mT, 6).explained
    for size in (1, 2, 3):
        assert (greedy[:, size] <= best_subsets(g @ t.mT, t @ t.mT, size) + 1e-9).all()
    torch.testing.assert_close(greedy[:, 1], (g @ t.mT).square().amax(1))
    basis, _ = torch.linalg.qr(t.mT)
    torch.testing.assert_close(greedy[:, 6], (g @ basis).square().sum(1))


def test_dependent_directions_do_no_harm():
    t = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    g = torch.tensor([[2.0, 1.0]])
    for l0, fvu in [(1, 0.2), (2, 0.0), (3, 0.0)]:
        assert oracle(g, t, l0).fvu == pytest.approx(fvu, abs=1e-9)
    assert oracle(g, t, 3).n_active.tolist() == [2]


def test_spread_takes_the_best_gain_first_and_sees_that_two_may_help_only_together():
    # Gains: row 0: 5, 1; row 1: 3, 2.
    explained = torch.tensor([[0.0, 5.0, 6.0], [0.0, 3.0, 5.0]])
    found = [spread(explained, b).tolist() for b in range(5)]
    assert found == [[0, 0], [1, 0], [1, 1], [1, 2], [2, 2]]
    # Row 0 gains 0, then 10: 5 a step, more than row 1's 4. Row 1's second step gains nothing.
    explained = torch.tensor([[0.0, 0.0, 10.0], [0.0, 4.0, 4.0]])
    assert spread(explained, 2).tolist() == [2, 0]
    assert spread(explained, 3).tolist() == [2, 1]
    assert spread(explained, 4).tolist() == [2, 1]


def test_many_directions_are_not_exhaustive_and_more_budget_never_hurts():
    g, t = random_problem(30, 50, 40)
    found = [oracle(g, t, l0) for l0 in (0.5, 1, 2, 4)]
    fvus = [o.fvu for o in found]
    assert fvus == sorted(fvus, reverse=True)
    assert [o.l0 for o in found] == pytest.approx([0.5, 1, 2, 4])
    assert not found[-1].exhaustive
    # The number active in a row is not cut below the L0.
    assert oracle(g, t, 10).l0 == pytest.approx(10)
    assert oracle(g, t, 10, max_active=6).l0 == pytest.approx(6)


def test_pca_by_hand():
    # Energies 16, 4, 1 along the axes: one component leaves 5 of 21; at L0 1 of 2 components over three
    # rows each row uses its own axis, so only the last row's 1 is lost.
    g = torch.diag(torch.tensor([4.0, 2.0, 1.0]))
    assert pca_fvu(g, 1) == pytest.approx(5 / 21)
    assert pca_fvu(g, 3) == pytest.approx(0)
    assert pca_fvu(g, 2, 1.0) == pytest.approx(1 / 21)
    assert pca_fvu(g, 2, 1 / 3) == pytest.approx(5 / 21)
    with pytest.raises(ValueError, match="gradients: expected not all zero"):
        oracle(torch.zeros(2, 3), torch.eye(3), 1)


@pytest.mark.parametrize("shape", [(7, 40), (40, 7)])
def test_principal_directions_are_those_of_an_svd(shape):
    g = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found, expected = principal_directions(g, 5), torch.linalg.svd(g, full_matrices=False).Vh[:5]
    torch.testing.assert_close((found @ expected.mT).abs(), torch.eye(5, dtype=torch.float64))
    # They end with the span.
    g = torch.ones(4, 9, dtype=torch.float64)
    assert len(principal_directions(g, 3)) == 1
    assert pca_fvu(g, 3) == pytest.approx(0)


def test_principal_directions_of_other_rows():
    g, other = torch.diag(torch.tensor([4.0, 2.0, 1.0])), torch.tensor([[0.0, 3.0, 0.0]])
    assert pca_fvu(g, 1, fit=other) == pytest.approx(17 / 21)
    assert pca_fvu(g, 3, 1.0, fit=other) == pytest.approx(17 / 21)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("l0", [None, 1.5])
@pytest.mark.parametrize("n", [1, 3, 50])
def test_from_inner_products_alone_it_is_the_same(dtype, l0, n):
    draw = torch.Generator().manual_seed(0)
    g, other = (torch.randn(20, 60, generator=draw).to(dtype) * torch.arange(60) for _ in range(2))
    close = {"rel": 1e-9 if dtype == torch.float64 else 1e-4, "abs": 1e-6}
    assert pca_fvu_of_grams(g @ g.T, n, l0) == pytest.approx(pca_fvu(g, n, l0), **close)
    found = pca_fvu_of_grams(g @ g.T, n, l0, fit=other @ other.T, cross=g @ other.T)
    assert found == pytest.approx(pca_fvu(g, n, l0, fit=other), **close)
