import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from subscape.subnetworks import batch_top_k, check_active_fraction, n_active

# How many


@pytest.mark.parametrize(
    ("k", "n_pairs", "expected"),
    [
        (0.1, 50, 5),
        (0.1, 54, 5),  # 5.4
        (0.1, 56, 6),  # 5.6
        (0.1, 25, 2),  # 2.5: halves go to the even neighbour
        (0.1, 35, 4),  # 3.5
        (0.01, 10, 1),  # 0.1: never none
        (1.0, 7, 7),
    ],
)
def test_the_count_is_rounded_and_at_least_one(k: float, n_pairs: int, expected: int):
    assert n_active(k, n_pairs) == expected


@pytest.mark.parametrize("k", [0.0, -0.1, 1.1, 10.0, float("nan"), float("inf")])
def test_fractions_outside_0_to_1_are_refused(k: float):
    with pytest.raises(ValueError, match=r"active_fraction: expected a share in \(0, 1\]"):
        check_active_fraction(k)


@pytest.mark.parametrize("k", [1e-9, 0.1, 1.0])
def test_fractions_up_to_1_pass(k: float):
    check_active_fraction(k)


# Which


def test_the_largest_by_size_of_the_whole_batch_by_hand():
    coefficients = torch.tensor([[0.1, -5.0, 0.2], [0.3, 4.0, -3.0]])
    # k = 0.5 of 6 pairs keeps 3: −5, 4 and −3. Row 0 has one, row 1 two, subnetwork 0 none.
    expected = [[False, True, False], [False, True, True]]
    assert batch_top_k(coefficients, 0.5).tolist() == expected


def test_at_least_one_is_kept():
    # 0.01 · 4 rounds to 0.
    assert batch_top_k(torch.tensor([[1.0, -2.0], [0.5, 0.0]]), 0.01).tolist() == [
        [False, True],
        [False, False],
    ]


def test_ties_at_the_cut_go_by_order_row_before_row():
    # 3 of 6: the 2 comes first; of the four of size 1, the two that stand first.
    coefficients = torch.tensor([[1.0, 0.0], [-1.0, 2.0], [1.0, -1.0]])
    assert batch_top_k(coefficients, 0.5).tolist() == [[True, False], [True, True], [False, False]]


def test_all_zero_coefficients_still_give_the_exact_count():
    assert batch_top_k(torch.zeros(2, 5), 0.3).tolist() == [[True] * 3 + [False] * 2, [False] * 5]


def test_every_replica_has_its_own_cut_and_its_own_ties():
    coefficients = torch.tensor([[[9.0, 8.0], [7.0, 6.0]], [[0.2, 0.1], [0.1, 0.1]]])
    # 2 of 4 in each. Replica 1: 0.2, then the first of three 0.1.
    assert batch_top_k(coefficients, 0.5).tolist() == [
        [[True, True], [False, False]],
        [[True, True], [False, False]],
    ]


def test_everything_is_kept_at_1():
    assert batch_top_k(torch.zeros(2, 3, 4), 1.0).all()


@given(
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 5)),
    k=st.floats(0.01, 1.0),
    levels=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
def test_the_mask_is_that_of_a_stable_sort(
    sizes: tuple[int, int, int], k: float, levels: int, seed: int
):
    # Few levels make many ties.
    generator = torch.Generator().manual_seed(seed)
    coefficients = torch.randint(-levels, levels + 1, sizes, generator=generator).float()
    mask = batch_top_k(coefficients, k)
    for values, kept in zip(coefficients.flatten(1), mask.flatten(1), strict=True):
        by_size = sorted(range(len(values)), key=lambda i: (-abs(float(values[i])), i))
        expected = sorted(by_size[: n_active(k, len(values))])
        assert kept.nonzero()[:, 0].tolist() == expected


def test_permuting_rows_permutes_the_mask():
    coefficients = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    order = torch.tensor([3, 0, 6, 1, 2, 5, 4])
    assert torch.equal(batch_top_k(coefficients, 0.3)[order], batch_top_k(coefficients[order], 0.3))
