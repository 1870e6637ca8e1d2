"""Inner products of directions with directions, some rows at a time."""

import pytest
import torch

from subscape.lowrank import Stack, make_layout
from subscape.lowrank import products as module
from subscape.lowrank.products import blocks_of_products
from tests.conftest import normal

SHAPES = {"w": (70, 65), "b": (5,), "c": (4, 3, 2), "scalar": ()}


RANKS = [("tucker", 2, 3), ("cp", 3, 3), ("tucker", 0.95, 2)]


def stack_of(n, rank, form="tucker"):
    layout = make_layout(SHAPES, rank, form)
    return Stack(layout, normal(n, layout.size))


@pytest.mark.parametrize(("form", "rank", "rank_of_other"), RANKS)
@pytest.mark.parametrize("largest", [1, 2**24])
def test_blocks_are_rows_of_all_inner_products(monkeypatch, form, rank, rank_of_other, largest):
    monkeypatch.setattr(module, "LARGEST_BLOCK", largest)
    one, other = stack_of(37, rank, form), stack_of(20, rank_of_other, form)
    blocks = list(blocks_of_products(one, other))
    assert [len(b) for b in blocks] == ([16, 16, 5] if largest == 1 else [37])
    torch.testing.assert_close(torch.cat(blocks), one.flat() @ other.flat().mT)


def test_by_hand():
    layout = make_layout({"w": (2, 2)}, 1, "cp")
    # (1, 3) ⊗ (5, −1) and (0, 1) ⊗ (1, 1): 5·0 − 1·0 + 15 − 3 = 12.
    stack = Stack(layout, torch.tensor([[1.0, 3.0, 5.0, -1.0], [0.0, 1.0, 1.0, 1.0]]))
    (products,) = blocks_of_products(stack, stack)
    assert products.tolist() == [[260.0, 12.0], [12.0, 2.0]]
