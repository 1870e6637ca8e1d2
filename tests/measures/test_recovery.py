import math
import sys

import pytest
import torch

from subscape.measures.recovery import match, recovery, span_cosines

EYE = torch.eye(3)


def test_exact_subnetworks_in_any_order_and_sign():
    found = recovery(torch.stack([-EYE[2], EYE[0], 2 * EYE[1]]), EYE)
    assert found.index.tolist() == [1, 2, 0]
    assert found.cosine.tolist() == pytest.approx([1, 1, 1])
    assert (found.mmcs, found.mmcs_unmatched, found.min_cosine) == pytest.approx((1, 1, 1))
    assert found.precision == pytest.approx(1)
    assert found.success
    assert found.n_matched == found.n_truths == found.n_alive == 3


def test_matching_is_one_to_one_where_the_unmatched_mean_is_not():
    # |cos|: truth 0 with (v0, v1) = (1, .8), truth 1 with (0, .6). Matched: 1 + .6, not .8 + 0.
    subnetworks = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    found = recovery(subnetworks, torch.eye(2))
    assert found.index.tolist() == [0, 1]
    assert found.mmcs == pytest.approx((1 + 0.6) / 2)
    assert found.mmcs_unmatched == pytest.approx((1 + 0.6) / 2)
    assert found.min_cosine == pytest.approx(0.6)
    # v0's best truth 1, v1's best .8.
    assert found.precision == pytest.approx(0.9)
    assert found.second_cosine == pytest.approx(0.8)
    assert found.n_matched == 1
    assert not found.success
    # Both truths nearest to v0: unmatched counts it twice, matched does not.
    merged = torch.tensor([[1.0, 1.0], [1.0, -0.2]])
    found = recovery(merged, torch.eye(2))
    long = math.sqrt(1.04)
    assert found.mmcs_unmatched == pytest.approx((1 / long + 1 / math.sqrt(2)) / 2)
    assert found.mmcs == pytest.approx((1 / long + 1 / math.sqrt(2)) / 2)
    assert found.index.tolist() == [1, 0]


def test_two_truths_merged_in_one_subnetwork_leave_one_unmatched():
    merged = torch.tensor([[1.0, 1.0]])
    found = recovery(merged, torch.eye(2))
    half = 1 / math.sqrt(2)
    assert found.mmcs_unmatched == pytest.approx(half)
    assert found.mmcs == pytest.approx(half / 2)
    assert sorted(found.index.tolist()) == [-1, 0]
    assert sorted(found.cosine.tolist()) == pytest.approx([0, half])


def test_a_second_subnetwork_on_the_same_truth_is_no_success():
    split = torch.stack([EYE[0], EYE[1], EYE[2], EYE[0] + EYE[1]])
    found = recovery(split, EYE)
    # cos(e0 + e1, e0) = .71 >= .5; its own best truth .71, so precision (3 + .71) / 4.
    assert not found.success
    assert found.all_matched
    assert found.second_cosine == pytest.approx(1 / math.sqrt(2))
    assert found.precision == pytest.approx((3 + 1 / math.sqrt(2)) / 4)
    dead = recovery(split, EYE, alive=torch.tensor([True, True, True, False]))
    assert dead.success
    assert dead.n_alive == 3


def test_unrepresented_truths_and_dead_subnetworks_keep_their_places():
    alive = torch.tensor([False, True, True])
    represented = torch.tensor([True, False, True])
    found = recovery(EYE[[0, 2, 0]], EYE, alive=alive, represented=represented)
    assert found.index.tolist() == [2, -1, 1]
    assert found.cosine[[0, 2]].tolist() == pytest.approx([1, 1])
    assert found.cosine[1].isnan()
    assert found.success
    assert found.n_truths == 2
    # Nothing alive.
    found = recovery(EYE, EYE, alive=torch.zeros(3, dtype=torch.bool))
    assert (found.mmcs, found.mmcs_unmatched, found.min_cosine) == (0, 0, 0)
    assert math.isnan(found.precision)
    assert not found.success
    with pytest.raises(ValueError, match="truth: expected directions over 3 parameters"):
        recovery(EYE, torch.eye(2))


def test_matching_without_scipy_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ImportError, match=r"subscape\[toys\]"):
        match(EYE)


def test_span_cosines_by_hand():
    # (1, 1, 1) / √3 has √(2/3) of its length in a coordinate plane; a leaning basis spans the same plane.
    spans = torch.stack([torch.stack([EYE[0], EYE[1]]), torch.stack([EYE[1], EYE[1] + 3 * EYE[2]])])
    truth = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, -2.0]])
    expected = torch.tensor([[2 / 3, 2 / 3], [0.0, 1.0]]).double().sqrt()
    torch.testing.assert_close(span_cosines(truth, spans), expected)
