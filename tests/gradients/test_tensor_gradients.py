import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from subscape.gradients import DenseGradient, IndexedGradient, OuterGradient, TensorGradient
from subscape.gradients import tensor_gradients as module
from subscape.gradients.contraction import DENSE_BUDGET, Terms, through_factors
from subscape.gradients.table_gradients import TiedGradient, merged
from subscape.lowrank import Stack, initial_stack, make_layout
from subscape.lowrank.tensor import pair_rank
from subscape.rows import generator_of

SHAPES = [(4, 5), (1, 3), (3, 1), (4, 3, 2), (3, 2, 2, 2)]
FORMS = ["outer", "indexed", "tied", "dense"]
CLOSE = {"rtol": 1e-11, "atol": 1e-11}


def normal(*shape):
    return torch.randn(shape, dtype=torch.float64)


def dead(values, share):
    """Some of the terms [row, term, size] set to zero, as padded or future tokens are."""
    return values * (torch.rand(*values.shape[:2], 1) >= share)


def outer(n_rows, n_terms, shape, share=0.0):
    rest = math.prod(shape[1:])
    left = dead(normal(n_rows, n_terms, shape[0]), share)
    return OuterGradient(left, dead(normal(n_rows, n_terms, rest), share / 2), shape)


def indexed(n_rows, n_terms, shape, share=0.0):
    index = torch.randint(0, shape[0], (n_rows, n_terms))
    return IndexedGradient(index, dead(normal(n_rows, n_terms, math.prod(shape[1:])), share), shape)


def dense_of(gradient):
    """Σ_t left_t ⊗ right_t written out term by term."""
    if isinstance(gradient, DenseGradient):
        return gradient.values
    if isinstance(gradient, TiedGradient):
        return dense_of(gradient.outer) + dense_of(gradient.indexed)
    assert isinstance(gradient, OuterGradient | IndexedGradient)
    if isinstance(gradient, OuterGradient):
        left = gradient.left
    else:
        left = torch.eye(gradient.shape[0], dtype=torch.float64)[gradient.index]
    rows = []
    for lefts, rights in zip(left, gradient.right, strict=True):
        terms = [torch.outer(a, b) for a, b in zip(lefts, rights, strict=True)]
        rows.append(torch.stack(terms).sum(0).view(gradient.shape))
    return torch.stack(rows)


@dataclass(frozen=True)
class Drawn:
    """What gradients and directions of one tensor are made of."""

    form: str
    n_rows: int
    n_terms: int
    n_lookups: int
    share: float
    shape: tuple[int, ...]
    rank: int | tuple[int, ...]
    direction_form: Any
    n_directions: int
    seed: int

    def gradient(self):
        torch.manual_seed(self.seed)
        if self.form == "dense":
            return DenseGradient(normal(self.n_rows, *self.shape))
        product = outer(self.n_rows, self.n_terms, self.shape, self.share)
        lookup = indexed(self.n_rows, self.n_lookups, self.shape, self.share)
        both = {"outer": product, "indexed": lookup}
        return both.get(self.form) or TiedGradient(product, lookup)

    def directions(self):
        layout = make_layout({"w": self.shape}, self.rank, self.direction_form)
        return initial_stack(layout, (self.n_directions,), generator_of(self.seed), normal())


@st.composite
def cases(draw):
    shape = draw(st.sampled_from(SHAPES))
    # One rank for all modes, or one for each, so that some are whole and the first among them.
    ranks = st.integers(1, max(shape)) | st.tuples(*(st.integers(1, d) for d in shape))
    return Drawn(
        form=draw(st.sampled_from(FORMS)),
        n_rows=draw(st.integers(1, 3)),
        n_terms=draw(st.integers(1, 5)),
        n_lookups=draw(st.integers(1, 5)),
        share=draw(st.sampled_from([0.0, 0.4, 1.0])),
        shape=shape,
        rank=draw(ranks),
        direction_form=draw(st.sampled_from(["tucker", "cp"])),
        n_directions=draw(st.integers(1, 3)),
        seed=draw(st.integers(0, 2**20)),
    )


def inner(gradient, stack):
    return gradient.inner(stack.layout.tensors[0], stack.pieces()["w"])


@pytest.fixture(params=[True, False], ids=["through factors", "through dense gradients"])
def way(request, monkeypatch):
    """Forces one of the two ways of contraction, where there are two."""

    def forced(tensor, *sizes):
        return request.param and pair_rank(tensor) is not None

    monkeypatch.setattr(module, "through_factors", forced)
    return request.param


# Every form against the dense definition


@pytest.mark.usefixtures("way")
def test_inner_products_and_their_slopes_are_those_of_dense_gradients():
    @settings(max_examples=100)
    @given(cases())
    def check(drawn):
        gradient, stack = drawn.gradient(), drawn.directions()
        weights = stack.weights.requires_grad_(True)
        products = inner(gradient, Stack(stack.layout, weights))
        written_out = dense_of(gradient).flatten(1) @ Stack(stack.layout, weights).flat().mT
        torch.testing.assert_close(products, written_out, **CLOSE)
        upstream = normal(*products.shape)
        slopes = (torch.autograd.grad(p, weights, upstream)[0] for p in (products, written_out))
        torch.testing.assert_close(*slopes, **CLOSE)

    check()


@settings(max_examples=100)
@given(cases())
def test_norms_products_and_combinations_are_those_of_dense_gradients(drawn):
    gradient = drawn.gradient()
    dense = dense_of(gradient)
    flat, weights = dense.flatten(1), normal(2, len(dense))
    other = replace(drawn, n_rows=drawn.n_rows + 1, seed=drawn.seed + 1).gradient()
    cross = flat @ dense_of(other).flatten(1).mT
    assert isinstance(gradient, TensorGradient)
    assert gradient.n_rows == len(dense)
    for found, expected in (
        (gradient.squared_norm(), flat.square().sum(1)),
        (gradient.gram(), flat @ flat.mT),
        (gradient.gram(other), cross),
        (other.gram(gradient), cross.mT),
        (gradient.dense(), dense),
        (gradient.combined(weights), torch.tensordot(weights, dense, dims=1)),
        # What is kept from one question to the next changes no answer.
        (gradient.squared_norm(), flat.square().sum(1)),
    ):
        torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("form", FORMS)
def test_the_sum_is_finite_unless_a_number_is_not(form, bad):
    values = torch.ones(2, 3, 4).double()
    broken = values.clone()
    broken[1, 2, 0] = bad
    index = torch.zeros(2, 3, dtype=torch.long)

    def made(left, right):
        product = OuterGradient(left, right, (4, 4))
        return {
            "dense": lambda: DenseGradient(right),
            "indexed": lambda: IndexedGradient(index, right, (2, 4)),
            "outer": lambda: product,
            "tied": lambda: TiedGradient(product, IndexedGradient(index, right, (4, 4))),
        }[form]()

    assert torch.isfinite(made(values, values).sum())
    assert not torch.isfinite(made(values, broken).sum())
    if form in ("outer", "tied"):
        assert not torch.isfinite(made(broken, values).sum())


# Vectors and scalars


@pytest.mark.parametrize("shape", [(), (5,)], ids=str)
def test_vectors_and_scalars(shape):
    gradient = DenseGradient(normal(3, *shape))
    stack = initial_stack(make_layout({"w": shape}, 2), (4,), generator_of(0), normal())
    flat, weights = gradient.values.reshape(3, -1), normal(2, 3)
    combined = gradient.combined(weights)
    assert combined.shape == (2, *shape)
    for found, expected in (
        (inner(gradient, stack), flat @ stack.flat().mT),
        (gradient.squared_norm(), flat.square().sum(1)),
        (gradient.gram(), flat @ flat.mT),
        (combined.reshape(2, -1), weights @ flat),
    ):
        torch.testing.assert_close(found, expected, **CLOSE)


# By hand


def test_outer_by_hand():
    # Row 0: [1, 0] ⊗ [2, 3] + [0, 1] ⊗ [1, 1] = [[2, 3], [1, 1]], squares 15; row 1 has nothing.
    left = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [1.0, 1.0]]]).double()
    right = torch.tensor([[[2.0, 3.0], [1.0, 1.0]], [[1.0, 1.0], [0.0, 0.0]]]).double()
    gradient = OuterGradient(left, right, (2, 2))
    assert gradient.squared_norm().tolist() == pytest.approx([15.0, 0.0], rel=1e-14)
    assert gradient.gram().tolist() == [[15.0, 0.0], [0.0, 0.0]]
    assert gradient.dense().tolist() == [[[2.0, 3.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]]
    assert gradient.combined(torch.tensor([[2.0, 7.0]]).double()).tolist() == [
        [[4.0, 6.0], [2.0, 2.0]]
    ]


def test_indexed_by_hand():
    # Token 1 comes twice in row 0: its row of the table gets 2 + 3; squares 25 + 1.
    gradient = IndexedGradient(
        torch.tensor([[1, 1, 0], [1, 2, 2]]),
        torch.tensor([[[2.0], [3.0], [1.0]], [[10.0], [0.0], [0.0]]]),
        (3, 1),
    )
    assert gradient.dense().squeeze(2).tolist() == [[1.0, 5.0, 0.0], [0.0, 10.0, 0.0]]
    assert gradient.squared_norm().tolist() == [26.0, 100.0]
    assert gradient.gram().tolist() == [[26.0, 50.0], [50.0, 100.0]]


def test_indexed_with_more_than_two_modes_by_hand():
    # Row 1 of a table of 2 x 2 matrices; the direction has ones there, and twos in row 0.
    gradient = IndexedGradient(
        torch.tensor([[1]]), torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]), (2, 2, 2)
    )
    direction = torch.stack([torch.full((2, 2), 2.0), torch.ones(2, 2)])
    whole = Stack(make_layout({"w": (2, 2, 2)}, 2), direction.flatten()[None])
    assert gradient.dense().tolist() == [[[[0.0, 0.0], [0.0, 0.0]], [[1.0, 2.0], [3.0, 4.0]]]]
    assert inner(gradient, whole).tolist() == [[10.0]]


def test_tied_has_the_cross_term_by_hand():
    # [1, 0] ⊗ [1, 1] and 2 [1, 0] at index 0 add up to [[3, 1], [0, 0]]: 10, not 2 + 4.
    one = torch.ones(1, 1, 2)
    product = OuterGradient(torch.tensor([[[1.0, 0.0]]]), one, (2, 2))
    lookup = IndexedGradient(torch.tensor([[0]]), torch.tensor([[[2.0, 0.0]]]), (2, 2))
    gradient = TiedGradient(product, lookup)
    assert gradient.squared_norm().tolist() == [10.0]
    assert gradient.gram().tolist() == [[10.0]]


def test_terms_that_are_zero_are_left_out():
    # Half of the terms are dead in row 0, one of four in row 1.
    alive = torch.tensor([[True, False, True, False], [True, True, True, False]])
    left, right = normal(2, 4, 3) * alive[..., None], normal(2, 4, 2)
    terms = Terms(left, right, alive)
    assert torch.equal(terms.left, left.flatten(0, 1)[alive.flatten()])
    few = Terms(normal(2, 8, 3), normal(2, 8, 2), torch.arange(16).view(2, 8) > 0)  # are kept
    for made, counts in ((terms, (2, 3)), (few, (8, 8))):
        assert len(made) == sum(counts)
        assert made.sum(torch.ones(len(made), 1)).tolist() == [[float(n)] for n in counts]
        by_row = [[10.0] * counts[0] + [20.0] * counts[1]]
        assert made.of_rows(torch.tensor([[10.0, 20.0]])).tolist() == by_row


# Sums of several calls


@settings(max_examples=60)
@given(
    forms=st.lists(st.sampled_from(["outer", "indexed", "dense"]), min_size=1, max_size=4),
    shape=st.sampled_from(SHAPES),
    n_rows=st.integers(1, 3),
)
def test_merged_is_the_sum(forms, shape, n_rows):
    made = {
        "outer": lambda n: outer(n_rows, n, shape, 0.3),
        "indexed": lambda n: indexed(n_rows, n, shape, 0.3),
        "dense": lambda n: DenseGradient(normal(n_rows, *shape)),
    }
    parts = [made[form](number + 1) for number, form in enumerate(forms)]
    expected = torch.stack([dense_of(part) for part in parts]).sum(0)
    found = merged(parts)
    torch.testing.assert_close(found.dense(), expected, **CLOSE)
    norms = expected.flatten(1).square().sum(1)
    torch.testing.assert_close(found.squared_norm(), norms, **CLOSE)


def test_merged_takes_the_thinnest_form():
    shape = (3, 2)
    products, lookups = outer(2, 1, shape), indexed(2, 4, shape)
    full = DenseGradient(normal(2, *shape))
    assert merged([products]) is products
    assert isinstance(merged([products, outer(2, 3, shape)]), OuterGradient)
    assert isinstance(merged([lookups, lookups]), IndexedGradient)
    assert isinstance(merged([lookups, products, products]), TiedGradient)
    assert isinstance(merged([full, products]), DenseGradient)


# Which way


N_FITTING = DENSE_BUDGET // (1024**2 * 4)
"""Dense gradients of a large matrix within the budget."""
MANY = 10**6
"""So many terms that dense gradients would be cheaper, were it not for their size."""


@pytest.mark.parametrize(
    ("shape", "rank", "sizes", "expected"),
    [
        # 32 terms, 10 directions of rank 8: 32 · 80 · (2,048 + 150) = 5.6 million multiplications, against
        # (32 + 32 · 10) · 1,024² = 369 million and 10 · 2 · 8 · 1,024² more to multiply directions out.
        ((1024, 1024), 8, (10, 32, 32, 4), True),
        # 3,200 terms: 3,200 · 80 · (32 + 150) = 47 million against (3,200 + 320) · 256 = 0.9 million.
        ((16, 16), 8, (10, 32, 3200, 4), False),
        ((1024, 1024), 512, (10, N_FITTING, MANY, 4), False),
        ((1024, 1024), 512, (10, N_FITTING + 1, MANY, 4), True),
        ((1024, 1024), 512, (N_FITTING + 1, 10, MANY, 4), True),
        ((1024, 1024), 512, (10, N_FITTING, MANY, 8), True),
        # What has no thin factors.
        *((shape, rank, (10, 1, 1, 4), False) for shape, rank in (((5,), 2), ((), 1))),
        *((shape, rank, (10, 1, 1, 4), False) for shape, rank in (((64, 64), 64), ((1024, 2), 2))),
    ],
    ids=str,
)
def test_the_cheaper_way_that_fits_is_taken(shape, rank, sizes, expected):
    tensor = make_layout({"w": shape}, rank).tensors[0]
    assert through_factors(tensor, *sizes) is expected


@pytest.mark.parametrize("taken", [True, False])
def test_the_way_that_is_asked_for_is_taken(monkeypatch, taken):
    seen = []

    def spy(*sizes):
        seen.append(sizes[1:])
        return taken

    monkeypatch.setattr(module, "through_factors", spy)
    gradient = outer(2, 4, (4, 5), 0.0)
    alive = OuterGradient(
        gradient.left * torch.tensor([1.0, 1.0, 0.0, 0.0])[:, None], gradient.right, (4, 5)
    )
    stack = initial_stack(make_layout({"w": (4, 5)}, 2), (3,), generator_of(0), normal())
    inner(alive, stack)
    # 3 directions, 2 rows, and 2 · 2 of the 2 · 4 terms, of 8 bytes.
    assert seen == [(3, 2, 4, 8)]
    assert ("_dense_gradient" in alive.__dict__) is not taken


@pytest.mark.parametrize("fitting", [1, 3, 100])
def test_products_through_dense_gradients_of_a_few_rows_at_a_time(monkeypatch, fitting):
    """Fifty terms a row: dense rows of 2 · 3 numbers are the cheaper way, and only some fit."""
    monkeypatch.setattr(module, "DENSE_BUDGET", fitting * 6 * 4)
    one, other = (
        OuterGradient(normal(n, 50, 2).float(), normal(n, 50, 3).float(), (2, 3)) for n in (7, 4)
    )
    flat, rest = one.dense().flatten(1), other.dense().flatten(1)
    torch.testing.assert_close(one.gram(other), flat @ rest.mT)
    torch.testing.assert_close(one.gram(), flat @ flat.mT)
