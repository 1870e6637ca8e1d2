"""What a reconstruction leaves of row gradients, as vectors and as inner products."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from subscape import GradientSource, Target
from subscape.gradients import DenseRowGradients, FactoredRowGradients
from subscape.lowrank import Stack, initial_stack
from subscape.lowrank.layout import make_layout
from subscape.rows import generator_of
from subscape.subnetworks import BatchTopK, Dictionary
from subscape.training import resampling
from subscape.training.resampling import N_CANDIDATES, replacements
from subscape.training.residual import (
    ProductResidual,
    Residual,
    VectorResidual,
    residual_of,
    residual_row,
)
from tests.conftest import normal

CLOSE = {"rtol": 1e-9, "atol": 1e-9}
SHAPES = {"matrix": (4, 3), "vector": (3,)}
N_PARAMETERS = 15


def products_of(vectors):
    return ProductResidual(vectors.vectors @ vectors.vectors.mT)


def assert_same(vectors, products):
    expected = products_of(vectors).products
    torch.testing.assert_close(products.products, expected, **CLOSE)
    torch.testing.assert_close(products.square(), vectors.square(), **CLOSE)


# Both forms


@given(
    n_replicas=st.integers(1, 3),
    n_rows=st.integers(2, 9),
    n_parameters=st.integers(1, 12),
    seed=st.integers(0, 2**20),
    data=st.data(),
)
def test_both_forms_answer_the_same(n_replicas, n_rows, n_parameters, seed, data):
    fair = data.draw(st.integers(1, n_rows))
    vectors = VectorResidual(normal(n_replicas, n_rows, n_parameters, seed=seed))
    products = products_of(vectors)
    at = torch.randint(0, n_rows, (n_replicas, 4), generator=generator_of(seed))
    torch.testing.assert_close(products.square(), vectors.square(), **CLOSE)
    torch.testing.assert_close(products.gains(at, fair), vectors.gains(at, fair), **CLOSE)
    assert_same(vectors.without(at[:, 0], fair), products.without(at[:, 0], fair))


@given(n_rows=st.integers(4, 9), seed=st.integers(0, 2**20))
def test_both_forms_answer_the_same_after_directions_are_taken_out(n_rows, seed):
    # Many parameters, so that two directions leave something of every row.
    vectors = VectorResidual(normal(2, n_rows, 12, seed=seed))
    products: Residual = products_of(vectors)
    order = torch.stack([torch.randperm(n_rows, generator=generator_of(seed, i)) for i in range(2)])
    for turn in range(2):
        vectors = vectors.without(order[:, turn], 2)
        products = products.without(order[:, turn], 2)
        assert isinstance(products, ProductResidual)
        assert_same(vectors, products)
        at = order[:, 2:]
        torch.testing.assert_close(products.gains(at, 3), vectors.gains(at, 3), **CLOSE)


def test_no_row_grows_when_a_direction_is_taken_out():
    vectors = VectorResidual(normal(2, 8, 5))
    for fair in (1, 3, 8):
        left = vectors.without(torch.tensor([0, 5]), fair).square()
        changed = left < vectors.square() - 1e-12
        # In its fair share of rows every row gets shorter; the others stay.
        assert changed.sum(1).tolist() == [fair, fair]
        torch.testing.assert_close(left[~changed], vectors.square()[~changed])


FORMS = {"vectors": VectorResidual, "products": lambda v: products_of(VectorResidual(v))}


@pytest.mark.parametrize("form", list(FORMS))
def test_residuals_by_hand(form):
    rows = torch.tensor([[3.0, 4.0], [6.0, 8.0], [0.0, 5.0], [4.0, -3.0]]).double()
    residual = FORMS[form](rows[None])
    assert isinstance(residual, Residual)
    assert residual.square().tolist() == [[25.0, 100.0, 25.0, 25.0]]
    # Along row 0, [0.6, 0.8], lie 5, 10, 4 and 0 of the rows; along row 2, [0, 1], 4, 8, 5 and -3.
    # A candidate's own row does not count.
    at = torch.tensor([[0, 2]])
    assert residual.gains(at, 1)[0].tolist() == pytest.approx([100.0, 64.0])
    assert residual.gains(at, 2)[0].tolist() == pytest.approx([116.0, 80.0])
    assert residual.gains(at, 4)[0].tolist() == pytest.approx([116.0, 89.0])
    # The fair share of two rows are rows 0 and 1, of which nothing is left.
    left = residual.without(torch.tensor([0]), 2)
    assert left.square()[0].tolist() == pytest.approx([0.0, 0.0, 25.0, 25.0], abs=1e-12)
    assert left.gains(torch.tensor([[2]]), 2)[0].tolist() == pytest.approx([9.0])
    # Of the fair share of one row, row 1; row 0 stays.
    left = residual.without(torch.tensor([0]), 1)
    assert left.square()[0].tolist() == pytest.approx([25.0, 0.0, 25.0, 25.0], abs=1e-12)


@pytest.mark.parametrize("form", list(FORMS))
def test_replicas_do_not_see_each_other(form):
    vectors, at = normal(3, 6, 4), torch.tensor([[0, 5], [2, 2], [4, 1]])
    together = FORMS[form](vectors)
    for replica in range(3):
        alone = FORMS[form](vectors[replica : replica + 1])
        here = at[replica : replica + 1]
        torch.testing.assert_close(together.gains(at, 2)[replica], alone.gains(here, 2)[0])
        left = together.without(at[:, 0], 2).square()[replica]
        torch.testing.assert_close(left, alone.without(here[:, 0], 2).square()[0])


@pytest.mark.parametrize("form", list(FORMS))
def test_a_zero_row_points_nowhere(form):
    vectors = normal(1, 4, 3)
    vectors[:, 2] = 0
    residual = FORMS[form](vectors)
    assert residual.gains(torch.tensor([[2]]), 2).tolist() == [[0.0]]
    torch.testing.assert_close(
        residual.without(torch.tensor([2]), 2).square(), residual.square(), rtol=0, atol=0
    )


# Of a reconstruction


def case(n_rows, n_replicas=2):
    """Rows, sparse coefficients and a decoder."""
    gradients = DenseRowGradients(normal(n_rows, N_PARAMETERS), SHAPES)
    layout = make_layout(SHAPES, 2)
    decoder = initial_stack(layout, (n_replicas, 4), generator_of(1), torch.zeros(()).double())
    kept = normal(n_replicas, n_rows, 4, seed=2)
    kept = kept * (normal(n_replicas, n_rows, 4, seed=3) > 0.3)
    kept[:, 1] = 0  # a row without any active subnetwork
    return gradients, kept, decoder


@pytest.mark.parametrize(
    ("n_rows", "form"),
    [(3, ProductResidual), (14, ProductResidual), (15, VectorResidual), (30, VectorResidual)],
)
def test_the_smaller_form_is_taken(n_rows, form):
    gradients, kept, decoder = case(n_rows)
    found = residual_of(gradients, kept, decoder)
    assert isinstance(found, form)
    vectors = VectorResidual(gradients.flat - kept @ decoder.flat())
    if isinstance(found, ProductResidual):
        assert_same(vectors, found)
    else:
        torch.testing.assert_close(found.vectors, vectors.vectors, **CLOSE)


@pytest.mark.parametrize("n_rows", [5, 30])
def test_a_row_in_full_is_that_of_the_dense_residual(n_rows):
    gradients, kept, decoder = case(n_rows)
    expected = gradients.flat - kept @ decoder.flat()
    for replica in range(2):
        for row in range(5):
            own = decoder.select(replica)
            found = residual_row(gradients, kept[replica], own, row)
            torch.testing.assert_close(found, expected[replica, row], **CLOSE)
    assert torch.equal(residual_row(gradients, kept[0], decoder.select(0), 1), gradients.flat[1])


def source_of(n_rows):
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).double()
    data = torch.randn(n_rows, 3, 6).double()
    # Three positions, so that a row of a matrix has three terms.
    return GradientSource(Target(model), data, engine={"*": "auto"}, reference="uniform")


def both_kinds(n_rows):
    """The same rows as factors and in full, and unit directions [2 replicas, 6 subnetworks]."""
    source = source_of(n_rows)
    factored = source.gradients(source.rows(0, n_rows))
    assert isinstance(factored, FactoredRowGradients)
    layout = make_layout(source.shapes, 2)
    stack = initial_stack(layout, (2, 6), generator_of(5), torch.zeros(()).double())
    return factored, DenseRowGradients(factored.flat, source.shapes), stack


@pytest.mark.parametrize("n_rows", [20, 80])
def test_residuals_of_factored_rows_are_those_of_the_same_rows_in_full(n_rows):
    factored, dense, decoder = both_kinds(n_rows)
    kept = normal(2, n_rows, 6) * (normal(2, n_rows, 6, seed=1) > 0.5)
    found, expected = (residual_of(rows, kept, decoder) for rows in (factored, dense))
    assert type(found) is type(expected)
    torch.testing.assert_close(found.square(), expected.square(), **CLOSE)
    at = torch.tensor([[0, 7], [19, 3]])
    torch.testing.assert_close(found.gains(at, 5), expected.gains(at, 5), **CLOSE)
    for row in (0, 13):
        one = decoder.select(1)
        found = residual_row(factored, kept[1], one, row)
        torch.testing.assert_close(found, residual_row(dense, kept[1], one, row), **CLOSE)


# In resampling


def replaced(gradients, stack, n_turns=3):
    picks = torch.rand(2, n_turns * N_CANDIDATES, generator=generator_of(6), dtype=torch.float64)
    selection = BatchTopK(1.0, stack.weights.shape[:-1], stack.weights)
    return replacements(gradients, Dictionary(stack, stack, selection), picks)


def assert_same_replacements(found, expected, stack):
    assert len(expected.replica) > 2  # more than one turn
    assert found.replica.tolist() == expected.replica.tolist()
    assert found.subnetwork.tolist() == expected.subnetwork.tolist()
    one, other = (Stack(stack.layout, new.weights).flat() for new in (found, expected))
    torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("n_rows", [20, 80], ids=["products", "vectors"])
def test_replacements_by_factored_rows_are_those_by_the_same_rows_in_full(n_rows):
    factored, dense, stack = both_kinds(n_rows)
    assert_same_replacements(replaced(factored, stack), replaced(dense, stack), stack)


@pytest.mark.parametrize("n_rows", [20, 80])
def test_replacements_are_the_same_by_either_form(n_rows, monkeypatch):
    _, dense, stack = both_kinds(n_rows)

    def forced(form):
        def residual(gradients, kept, decoder):
            return FORMS[form](gradients.flat - kept @ decoder.flat())

        monkeypatch.setattr(resampling, "residual_of", residual)
        return replaced(dense, stack)

    assert_same_replacements(forced("products"), forced("vectors"), stack)
