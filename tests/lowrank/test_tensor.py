"""One tensor's directions as pairs of thin matrices, against the same multiplied out."""

from typing import Any

import pytest
import torch

from subscape.lowrank import Stack, make_layout
from subscape.lowrank import tensor as module
from subscape.lowrank.tensor import compose, composing_cost, gram, pair, pair_rank, squared_norm
from tests.conftest import normal

CLOSE = {"rtol": 1e-11, "atol": 1e-11}

Given = tuple[tuple[int, ...], Any, Any]
"""Shape, rank and form."""

THIN: list[tuple[Given, int]] = [
    # Matrices; the core goes to the side that leaves the smaller rank.
    (((6, 8), (2, 2), "tucker"), 2),
    (((6, 8), (2, 3), "tucker"), 2),
    (((6, 8), (4, 1), "tucker"), 1),
    (((6, 8), (6, 2), "tucker"), 2),
    (((6, 8), (3, 8), "tucker"), 3),
    (((8, 6), (8, 5), "tucker"), 5),
    (((6, 8), 3, "cp"), 3),
    # Kernels by their first mode.
    (((6, 4, 3), (2, 4, 1), "tucker"), 2),
    (((6, 4, 3, 3), (2, 2, 2, 2), "tucker"), 2),
    (((6, 4, 3, 3), (3, 4, 3, 3), "tucker"), 3),
    (((6, 4, 3, 3), (1, 2, 3, 1), "tucker"), 1),
    (((5, 4, 3), 2, "cp"), 2),
    (((5, 4, 3, 2), 3, "cp"), 3),
]
"""What has thin matrices, with their rank."""
WHOLE: list[Given] = [
    ((), 1, "tucker"),
    ((5,), 2, "tucker"),
    ((5,), (2,), "tucker"),
    ((5,), 2, "cp"),
    ((6, 8), (6, 8), "tucker"),
    ((6, 8), (6, 7), "tucker"),
    ((1, 8), 1, "tucker"),
    ((8, 1), 1, "tucker"),
    ((6, 4, 3), (6, 1, 1), "tucker"),
    ((6, 4, 3, 3), (6, 2, 3, 1), "tucker"),
]
"""What is always multiplied out."""


def directions(given, *lead, seed=0):
    layout = make_layout({"w": given[0]}, given[1], given[2])
    return Stack(layout, normal(*lead, layout.size, seed=seed))


def parts(stack):
    return stack.layout.tensors[0], stack.pieces()["w"]


@pytest.fixture
def thin(monkeypatch):
    """However small, through thin matrices: multiplying out fails."""

    def fail(*_):
        raise AssertionError("multiplied out")

    monkeypatch.setattr(module, "SMALL", 0)
    monkeypatch.setattr(module, "_thin_is_cheaper", lambda *_: True)
    monkeypatch.setattr(module, "compose", fail)


thin_ones = pytest.mark.parametrize("given", [given for given, _ in THIN], ids=str)
leads = pytest.mark.parametrize("lead", [(3,), (2, 3), (1, 1), (2, 2, 4)], ids=str)


# Pairs


@pytest.mark.parametrize(("given", "rank"), THIN, ids=str)
@pytest.mark.parametrize("lead", [(), (3,), (2, 3)], ids=str)
def test_a_pair_is_the_unfolded_direction(given, rank, lead):
    stack = directions(given, *lead)
    found = pair(*parts(stack))
    first, rest = given[0][0], stack.layout.n_parameters // given[0][0]
    assert pair_rank(stack.layout.tensors[0]) == rank
    assert found.left.shape == (*lead, first, rank)
    assert found.right.shape == (*lead, rest, rank)
    expected = stack.dense()["w"].reshape(*lead, first, rest)
    torch.testing.assert_close(found.left @ found.right.mT, expected, **CLOSE)


def test_pairs_by_hand():
    # Core [2, 3]; factor [1, 1] of the first mode, the second whole: [1, 1] ⊗ [2, 3].
    stack = Stack(make_layout({"w": (2, 2)}, (1, 2)), torch.tensor([2.0, 3.0, 1.0, 1.0]))
    left, right = pair(*parts(stack))
    assert left.tolist() == [[1.0], [1.0]]
    assert right.tolist() == [[2.0], [3.0]]
    # The first mode whole: core [2, 3] on the left, factor [1, 5] on the right.
    stack = Stack(make_layout({"w": (2, 2)}, (2, 1)), torch.tensor([2.0, 3.0, 1.0, 5.0]))
    left, right = pair(*parts(stack))
    assert left.tolist() == [[2.0], [3.0]]
    assert right.tolist() == [[1.0], [5.0]]


# Norms and inner products


def dense_gram(stack):
    flat = stack.flat()
    return torch.einsum("...kd,...ld->...kl", flat, flat)


@thin_ones
@leads
@pytest.mark.usefixtures("thin")
def test_products_through_thin_matrices(given, lead, monkeypatch):
    stack = directions(given, *lead)
    found = gram(*parts(stack))
    norms = squared_norm(*parts(stack))
    monkeypatch.undo()
    expected = dense_gram(stack)
    assert found.shape == (*lead, lead[-1])
    torch.testing.assert_close(found, expected, **CLOSE)
    torch.testing.assert_close(norms, expected.diagonal(dim1=-2, dim2=-1), **CLOSE)


@pytest.mark.parametrize(
    ("given", "small"),
    [(given, module.SMALL) for given in [*(given for given, _ in THIN), *WHOLE]]
    + [(given, 0) for given in WHOLE],  # what has no pair is multiplied out at any size
    ids=str,
)
@leads
def test_products_of_what_is_multiplied_out(given, small, lead, monkeypatch):
    monkeypatch.setattr(module, "SMALL", small)
    stack = directions(given, *lead)
    assert (pair_rank(stack.layout.tensors[0]) is None) is (given in WHOLE)
    expected = dense_gram(stack)
    torch.testing.assert_close(gram(*parts(stack)), expected, **CLOSE)
    norms = expected.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(squared_norm(*parts(stack)), norms, **CLOSE)


@pytest.mark.usefixtures("thin")
def test_products_by_hand():
    # [1, 2] ⊗ [1, 0] and [0, 3] ⊗ [1, 1]: squares 5 and 18, product (2 · 3) · 1.
    stack = Stack(
        make_layout({"w": (2, 2)}, 1, "cp"),
        torch.tensor([[1.0, 2.0, 1.0, 0.0], [0.0, 3.0, 1.0, 1.0]]),
    )
    assert gram(*parts(stack)).tolist() == [[5.0, 6.0], [6.0, 18.0]]
    assert squared_norm(*parts(stack)).tolist() == [5.0, 18.0]
    assert squared_norm(*parts(stack.select(1))).tolist() == 18.0  # without leading axes


@pytest.mark.usefixtures("thin")
def test_terms_that_cancel_have_no_negative_norm():
    # u ⊗ v − u ⊗ v, but for rounding; its square root is taken.
    generator = torch.Generator().manual_seed(0)
    u, v = torch.randn(2, 500, 9, 1, generator=generator)
    left, right = torch.cat([u, 3 * u], -1), torch.cat([v, -v / 3], -1)
    tensor = make_layout({"w": (9, 9)}, 2, "cp").tensors[0]
    products = ((left.mT @ left) * (right.mT @ right)).sum((-2, -1))
    assert products.min() < 0
    assert squared_norm(tensor, [left, right]).min() == 0


# Slopes


def slope(stack, upstream, of):
    weights = stack.weights.clone().requires_grad_(True)
    return torch.autograd.grad(of(Stack(stack.layout, weights)), weights, upstream)[0]


@thin_ones
@pytest.mark.parametrize("lead", [(3,), (2, 3)], ids=str)
@pytest.mark.usefixtures("thin")
def test_slopes_of_products_through_thin_matrices(given, lead, monkeypatch):
    stack = directions(given, *lead)
    # Not symmetric, as a loss is free to weigh both halves differently.
    upstream = normal(*lead, lead[-1], seed=1)
    found = slope(stack, upstream, lambda s: gram(*parts(s)))
    of_norms = slope(stack, upstream[..., 0], lambda s: squared_norm(*parts(s)))
    monkeypatch.undo()
    torch.testing.assert_close(found, slope(stack, upstream, dense_gram), **CLOSE)
    expected = slope(stack, upstream[..., 0], lambda s: s.flat().square().sum(-1))
    torch.testing.assert_close(of_norms, expected, **CLOSE)


@pytest.mark.parametrize("given", WHOLE[1:2] + WHOLE[4:6] + WHOLE[8:], ids=str)
@pytest.mark.parametrize("lead", [(3,), (2, 3)], ids=str)
def test_slopes_of_products_that_are_multiplied_out(given, lead):
    stack = directions(given, *lead)
    upstream = normal(*lead, lead[-1], seed=1)
    found = slope(stack, upstream, lambda s: gram(*parts(s)))
    torch.testing.assert_close(found, slope(stack, upstream, dense_gram), **CLOSE)


@pytest.mark.parametrize(
    "given", [((4, 3), (2, 1), "tucker"), ((3, 2, 2), 2, "cp"), ((4, 2, 2), 2, "tucker")], ids=str
)
@pytest.mark.usefixtures("thin")
def test_slopes_by_finite_differences(given):
    stack = directions(given, 2, 2)
    tensor = stack.layout.tensors[0]
    weights = stack.weights.requires_grad_(True)

    def of(weights):
        return gram(tensor, Stack(stack.layout, weights).pieces()["w"])

    assert torch.autograd.gradcheck(of, weights)


# Which way


@pytest.mark.parametrize(
    ("shape", "rank", "n", "expected"),
    [
        # (10 · 1)² · 200 = 20,000 multiplications against 10² · 10,000 and 10 · 10,000 more.
        ((100, 100), 1, 10, "thin"),
        # (10 · 50)² · 200 = 50 million against 1 million and 5 million.
        ((100, 100), 50, 10, "dense"),
        # Up to 4,096 numbers nothing is worth the trouble.
        ((64, 64), 1, 10, "dense"),
        ((64, 65), 1, 10, "thin"),
    ],
)
def test_the_cheaper_way_is_taken(shape, rank, n, expected, monkeypatch):
    seen = []
    for name, way in (("compose", "dense"), ("pair", "thin")):
        original = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *given, f=original, way=way: seen.append(way) or f(*given)
        )
    gram(*parts(directions((shape, rank, "tucker"), n)))
    assert seen == [expected]


def test_the_cost_of_multiplying_out_by_hand():
    # Core 2 · 3 to 4 · 3, with 2 · 3 · 4 = 24 multiplications, then to 4 · 6 with 4 · 3 · 6 = 72.
    assert composing_cost(make_layout({"w": (4, 6)}, (2, 3)).tensors[0], 5) == 5 * 96
    # A whole mode costs nothing.
    assert composing_cost(make_layout({"w": (4, 6)}, (4, 3)).tensors[0], 1) == 72
    assert composing_cost(make_layout({"w": (4, 3, 2)}, 2, "cp").tensors[0], 5) == 5 * 2 * 24
    assert composing_cost(make_layout({"w": (4,)}, 1).tensors[0], 5) == 0


def test_multiplying_out_gives_the_tensors_shape():
    stack = directions(((6, 4, 3, 3), (2, 2, 3, 1), "tucker"), 2, 3)
    assert compose(*parts(stack)).shape == (2, 3, 6, 4, 3, 3)
