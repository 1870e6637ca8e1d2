import pytest
import torch

from subscape.gradients import DenseRowGradients
from subscape.lowrank import Stack, make_layout
from subscape.lowrank.stack import unit
from subscape.subnetworks import dense_error, projected_error
from tests.conftest import normal

SHAPES = {"w": (4, 3), "b": (3,)}
LAYOUT = make_layout(SHAPES, 2)


def stacks(*lead):
    encoder = unit(Stack(LAYOUT, normal(*lead, LAYOUT.size, seed=1)))
    decoder = unit(Stack(LAYOUT, normal(*lead, LAYOUT.size, seed=2)))
    return encoder, decoder


@pytest.mark.parametrize("shared", [True, False], ids=["shared rows", "rows of their own"])
@pytest.mark.parametrize("lead", [(), (3,)], ids=["one", "replicas"])
def test_projected_error_equals_dense_error(lead, shared):
    encoder, decoder = stacks(*lead, 5)
    flat = normal(*(() if shared else lead), 6, 15, seed=3)
    gradients = DenseRowGradients(flat, SHAPES)
    kept = gradients.inner(encoder) * (normal(*lead, 6, 5, seed=4) > 0)
    dense = dense_error(gradients, kept, decoder)
    assert dense.shape == lead
    torch.testing.assert_close(
        projected_error(gradients, kept, decoder), dense, rtol=1e-10, atol=0.0
    )


def test_projected_error_holds_near_zero_in_float64():
    _, decoder = stacks(5)
    exact = normal(6, 5, seed=3)
    flat = exact @ decoder.flat() + 1e-4 * normal(6, 15, seed=5)
    gradients = DenseRowGradients(flat, SHAPES)
    dense = dense_error(gradients, exact, decoder)
    assert float(dense / gradients.squared_norm().sum()) < 1e-7
    torch.testing.assert_close(
        projected_error(gradients, exact, decoder), dense, rtol=1e-6, atol=0.0
    )


@pytest.mark.parametrize("form", ["tucker", "cp"])
def test_both_forms_have_the_same_gradients(form):
    layout = make_layout(SHAPES, 2, form)
    gradients = DenseRowGradients(normal(6, 15, seed=3), SHAPES)
    mask = normal(3, 6, 5, seed=4) > 0
    found = []
    for error in (dense_error, projected_error):
        weights = [normal(3, 5, layout.size, seed=seed).requires_grad_(True) for seed in (1, 2)]
        encoder, decoder = (Stack(layout, w) for w in weights)
        error(gradients, gradients.inner(encoder) * mask, decoder).sum().backward()
        found.append([w.grad for w in weights])
    for dense, projected in zip(*found, strict=True):
        assert dense.abs().sum() > 0
        torch.testing.assert_close(projected, dense, rtol=1e-10, atol=1e-10)
