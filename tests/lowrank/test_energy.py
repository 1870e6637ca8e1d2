"""Sums over directions without their Gram matrix, against it."""

from typing import Any

import pytest
import torch

from subscape.lowrank import Stack, initial_stack, make_layout
from subscape.lowrank import energy as module
from subscape.lowrank import tensor as tensor_module
from subscape.lowrank.energy import energy, gram_fits, through_gram
from subscape.rows import generator_of
from subscape.subnetworks.objective import error_of

SHAPES = {"wide": (3, 5, 2), "tall": (9, 4), "bias": (6,)}
BYTES = 8 * 7 * 12
"""So many that seven directions, or rows, of `tall` fewer two entries are made at a time."""


def a_stack(lead=(13,), form: Any = "tucker", rank=2):
    like = torch.empty(0, dtype=torch.float64)
    return initial_stack(make_layout(SHAPES, rank, form), lead, generator_of(1), like)


@pytest.fixture
def small(monkeypatch):
    """Nothing large fits."""
    monkeypatch.setattr(module, "LARGEST_GRAM", BYTES)


@pytest.mark.parametrize("lead", [(), (2,), (1, 2)])
@pytest.mark.parametrize("form", ["tucker", "cp"])
def test_energy_and_its_slopes_are_those_of_the_gram_matrix(small, lead, form):
    stack = a_stack((*lead, 13), form)
    assert not gram_fits(stack)
    codes = torch.randn(*lead, 17, 13, dtype=torch.float64)
    found, expected = [], []
    for kept, value_of in (
        (found, lambda c, s: energy(c, s)),
        (expected, lambda c, s: (c * (c @ s.gram())).sum((-2, -1))),
    ):
        c, w = codes.clone().requires_grad_(True), stack.weights.clone().requires_grad_(True)
        value = value_of(c, Stack(stack.layout, w))
        assert value.shape == lead
        weight = torch.arange(1.0, value.numel() + 1, dtype=torch.float64).view(value.shape)
        (value * weight).sum().backward()
        kept += [value.detach(), c.grad, w.grad]
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_a_gram_matrix_fits_or_not_in_the_type_that_it_is_used_in(monkeypatch):
    stack = Stack(make_layout({"b": (2,)}, 1), torch.ones(10, 2))
    monkeypatch.setattr(module, "LARGEST_GRAM", 4 * 10**2)
    assert gram_fits(stack)
    assert not gram_fits(stack, torch.ones(1, dtype=torch.float64))
    assert not gram_fits(Stack(stack.layout, torch.ones(2, 10, 2)))


def test_energy_by_hand():
    # Two directions (1, 0) and (1, 1) of a vector, codes (2, 3): (5, 3), whose square is 34.
    stack = Stack(make_layout({"b": (2,)}, 1), torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    assert energy(torch.tensor([[2.0, 3.0]]), stack) == 34


@pytest.mark.parametrize("lead", [(), (2,)])
def test_what_codes_rebuild_meets_the_directions(small, lead):
    stack = a_stack((*lead, 13))
    codes = torch.randn(*lead, 17, 13, dtype=torch.float64)
    torch.testing.assert_close(through_gram(codes, stack), codes @ stack.gram())


def test_the_error_is_the_same_where_the_gram_matrix_is_too_large(monkeypatch):
    stack = a_stack()
    codes, projected = torch.randn(2, 17, 13, dtype=torch.float64)
    total = torch.tensor(1000.0, dtype=torch.float64)
    expected = error_of(total, codes, projected, stack)
    monkeypatch.setattr(module, "LARGEST_GRAM", BYTES)
    monkeypatch.setattr(Stack, "gram", None)  # not even asked for
    torch.testing.assert_close(error_of(total, codes, projected, stack), expected)


@pytest.mark.parametrize("n", [8, 13])
def test_a_gram_matrix_in_tiles_is_the_same(monkeypatch, n):
    monkeypatch.setattr(tensor_module, "SMALL", 0)  # thin matrices pay
    like = torch.empty(0, dtype=torch.float64)
    layout = make_layout({"w": (40, 50)}, 3)
    weights = initial_stack(layout, (2, n), generator_of(1), like).weights

    def gram_and_slope():
        leaf = weights.clone().requires_grad_(True)
        gram = Stack(layout, leaf).gram()
        generator = torch.Generator().manual_seed(0)
        upstream = torch.randn(gram.shape, generator=generator, dtype=torch.float64)
        return gram, torch.autograd.grad(gram, leaf, upstream)[0]

    expected = gram_and_slope()
    # Tiles of five directions by five.
    monkeypatch.setattr(tensor_module, "LARGEST_PRODUCT", 8 * 2 * (5 * 3) ** 2)
    seen = []
    right = tensor_module._tile

    def watched(*sides):
        out = right(*sides)
        seen.append(out.shape[-2:])
        return out

    monkeypatch.setattr(tensor_module, "_tile", watched)
    torch.testing.assert_close(gram_and_slope(), expected)
    assert len(seen) >= 3
    assert all(max(shape) <= 5 for shape in seen)
