"""Co-activation from a list of who is active where."""

import pytest
import torch

from subscape.measures import coactivation as module
from subscape.measures.coactivation import blocks_of_coactivation, listed

NONE = torch.zeros(0, dtype=torch.long)


def test_by_hand():
    """Four rows: 0 and 1 always together, 2 in their place, 3 never, 4 always."""
    active = torch.tensor([[1, 1, 0, 0, 1], [0, 0, 1, 0, 1], [1, 1, 0, 0, 1], [0, 0, 1, 0, 1]])
    entries = listed(active[2:].bool(), listed(active[:2].bool(), NONE, 0), 2)
    assert entries.tolist() == [0, 1, 4, 7, 9, 10, 11, 14, 17, 19]
    (found,) = blocks_of_coactivation(entries, 4, 5)
    assert found[:3, :3].tolist() == [[1, 1, -1], [1, 1, -1], [-1, -1, 1]]
    assert found[3:].isnan().all()
    assert found[:, 3:].isnan().all()


@pytest.mark.parametrize("largest", [1, 500, 2**24])
def test_the_same_as_the_correlation_of_all_whatever_the_blocks(monkeypatch, largest):
    monkeypatch.setattr(module, "LARGEST_BLOCK", largest)
    active = torch.rand(200, 9, generator=torch.Generator().manual_seed(0)) < 0.3
    blocks = list(blocks_of_coactivation(listed(active, NONE, 0), 200, 9))
    assert len(blocks) == {1: 9, 500: 2, 2**24: 1}[largest]
    torch.testing.assert_close(torch.cat(blocks), torch.corrcoef(active.mT.double()))
