import pytest
import torch

from subscape.reproduce.purity import purity


def test_purity_by_hand():
    coefficients = torch.tensor([
        [2.0, 0.0, 0.1],
        [-1.0, 0.0, 0.0],
        [0.0, 3.0, 0.0],
        [0.5, 1.0, 0.0],
    ])
    groups = torch.tensor([[True, False], [True, True], [False, True], [False, True]])
    found = purity(coefficients, groups, min_rate=0.25)
    # Subnetwork 0 fires in rows 0, 1, 3; group 0 is active in 2 of them, group 1 too: first one wins.
    # Subnetwork 1 fires in rows 2, 3, group 1 in both. Subnetwork 2 fires in a quarter: not more.
    assert found.purity[:2].tolist() == pytest.approx([2 / 3, 1])
    assert found.purity[2].isnan()
    assert found.majority.tolist() == [0, 1, -1]
    assert found.mean == pytest.approx((2 / 3 + 1) / 2)
    assert found.n_groups == 2
    dead = purity(coefficients, groups, alive=torch.tensor([True, False, True]), min_rate=0.25)
    assert dead.majority.tolist() == [0, -1, -1]
