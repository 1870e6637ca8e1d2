"""The nearest others of every subnetwork."""

import math

import torch

from subscape.subnetworks import neighbours as module
from subscape.subnetworks.neighbours import Neighbours

MAP = torch.tensor([
    [1.0, 0.25, -0.5, 0.75],
    [0.25, 1.0, math.nan, 0.5],
    [-0.5, math.nan, 1.0, math.nan],
    [0.75, 0.5, math.nan, 1.0],
])


def test_all_of_few_by_hand_whatever_the_blocks():
    for blocks in ([MAP], MAP.split(3), MAP.split(1)):
        found = Neighbours.of(blocks)
        assert found.others[:2].tolist() == [[3, 1, 2], [3, 0, 2]]
        assert found.values[0].tolist() == [0.75, 0.25, -0.5]
        assert found.others[2, 0] == 0
        assert found.whole
        torch.testing.assert_close(found.matrix(), MAP, equal_nan=True)
    assert repr(found) == "Neighbours(3 of each of 4 subnetworks)"
    assert Neighbours.of([torch.ones(1, 1)]).matrix().tolist() == [[1.0]]


def test_the_nearest_of_many(monkeypatch):
    assert Neighbours.of([MAP], 1).others.tolist()[:2] == [[3], [3]]
    monkeypatch.setattr(module, "WHOLE", 3)
    monkeypatch.setattr(module, "KEPT", 2)
    found = Neighbours.of([MAP])
    assert not found.whole
    assert found.others[0].tolist() == [3, 1]
    # What is not kept counts as unrelated.
    assert found.row(0).tolist() == [1.0, 0.25, 0.0, 0.75]
