"""Paths from an input to its own output."""

import pytest
import torch

from subscape.reproduce.paths import paths


def judged(read, changed, alive=(True, True)):
    """With one hidden unit: what subnetworks read of two inputs, and change in two outputs."""
    first, last = torch.tensor(read)[:, None, :], torch.tensor(changed)[:, :, None]
    return paths(first, last, alive=torch.tensor(alive))


def test_a_path_for_each_by_hand():
    # 0.1 / 1.1 of what the second one reads is of another input: 1 / 1.1 of its energy is its own.
    found = judged([[0.0, 2.0], [1.0, 0.1**0.5]], [[0.0, 1.0], [3.0, 0.0]])
    assert found.feature.tolist() == [1, 0]
    assert found.share.tolist() == pytest.approx([1.0, 1 / 1.1])
    assert (found.n_found, found.all_found) == (2, True)


@pytest.mark.parametrize(
    ("read", "changed", "alive", "features", "n_found"),
    [
        # Both for one input.
        ([[1.0, 0.0], [2.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]], (True, True), [0, 0], 1),
        # From one input to another's output.
        ([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]], (True, True), [0, -1], 1),
        # Two inputs in one.
        ([[1.0, 0.0], [1.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]], (True, True), [0, -1], 1),
        # Not used.
        ([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]], (True, False), [0, -1], 1),
        # No direction at all.
        ([[1.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]], (True, True), [0, -1], 1),
    ],
)
def test_what_is_no_path_for_each(read, changed, alive, features, n_found):
    found = judged(read, changed, alive)
    assert found.feature.tolist() == features
    assert (found.n_found, found.all_found) == (n_found, False)
