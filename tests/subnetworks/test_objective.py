import pytest
import torch
from torch import Tensor

from subscape.gradients import DenseRowGradients
from subscape.lowrank import Stack, make_layout
from subscape.lowrank.stack import unit
from subscape.subnetworks import dense_error, projected_error, reconstruct

SHAPES = {"w": (4, 3), "b": (3,)}
LAYOUT = make_layout(SHAPES, 2)


def draw(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def stacks(*lead: int) -> tuple[Stack, Stack]:
    encoder = unit(Stack(LAYOUT, draw(*lead, LAYOUT.size, seed=1)))
    decoder = unit(Stack(LAYOUT, draw(*lead, LAYOUT.size, seed=2)))
    return encoder, decoder


def identity_stack(directions: Tensor) -> Stack:
    """Directions of one whole vector: what is in them is what is in the weights."""
    return Stack(make_layout({"v": (directions.shape[-1],)}, 1), directions)


# By hand


def test_fvu_of_two_rows_by_hand():
    gradients = DenseRowGradients(torch.tensor([[3.0, 4.0], [0.0, 2.0]]), {"v": (2,)})
    stack = identity_stack(torch.eye(2))
    # Coefficients 3, 4 / 0, 2. Half of four are kept: 3 and 4. Row 0 is rebuilt, row 1 becomes 0.
    # FVU = 2² / (25 + 4) = 4 / 29.
    found = reconstruct(gradients, stack, stack, 0.5)
    assert found.coefficients.tolist() == [[3.0, 4.0], [0.0, 2.0]]
    assert found.active.tolist() == [[True, True], [False, False]]
    assert float(found.total) == 29.0
    assert float(found.error) == pytest.approx(4.0)
    assert float(found.fvu) == pytest.approx(4 / 29)


def test_fvu_is_uncentred_and_pooled():
    # Two equal rows: a centred measure would divide by 0, a mean of ratios would give 1/2.
    gradients = DenseRowGradients(torch.tensor([[1.0, 1.0], [1.0, 1.0]]), {"v": (2,)})
    stack = identity_stack(torch.eye(2))
    # Ties: row 0 is kept whole (2 of 4), row 1 not: 2 / 4.
    assert float(reconstruct(gradients, stack, stack, 0.5).fvu) == pytest.approx(0.5)
    # A long row counts for more: rows 3 and 1, one of two kept: 1 / 10.
    gradients = DenseRowGradients(torch.tensor([[3.0], [1.0]]), {"v": (1,)})
    stack = identity_stack(torch.ones(1, 1))
    assert float(reconstruct(gradients, stack, stack, 0.5).fvu) == pytest.approx(0.1)


def test_encoder_selects_and_decoder_rebuilds():
    gradients = DenseRowGradients(torch.tensor([[1.0, 2.0]]), {"v": (2,)})
    encoder = identity_stack(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    decoder = identity_stack(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    # Coefficients 2, 1; one of two is kept: 2 along (1, 0). g − ĝ = (−1, 2): 5 / 5.
    assert float(reconstruct(gradients, encoder, decoder, 0.5).fvu) == pytest.approx(1.0)


# Two exact forms


@pytest.mark.parametrize("shared", [True, False], ids=["shared rows", "rows of their own"])
@pytest.mark.parametrize("lead", [(), (3,)], ids=["one", "replicas"])
def test_projected_error_equals_dense_error(lead: tuple[int, ...], shared: bool):
    encoder, decoder = stacks(*lead, 5)
    flat = draw(*(() if shared else lead), 6, 15, seed=3)
    gradients = DenseRowGradients(flat, SHAPES)
    kept = gradients.inner(encoder) * (draw(*lead, 6, 5, seed=4) > 0)
    dense = dense_error(gradients, kept, decoder)
    assert dense.shape == lead
    torch.testing.assert_close(
        projected_error(gradients, kept, decoder), dense, rtol=1e-10, atol=0.0
    )


def test_projected_error_holds_near_zero_in_float64():
    _, decoder = stacks(5)
    exact = draw(6, 5, seed=3)
    flat = exact @ decoder.flat() + 1e-4 * draw(6, 15, seed=5)
    gradients = DenseRowGradients(flat, SHAPES)
    dense = dense_error(gradients, exact, decoder)
    assert float(dense / gradients.squared_norm().sum()) < 1e-7
    torch.testing.assert_close(
        projected_error(gradients, exact, decoder), dense, rtol=1e-6, atol=0.0
    )


@pytest.mark.parametrize("form", ["tucker", "cp"])
def test_both_forms_have_the_same_gradients(form: str):
    layout = make_layout(SHAPES, 2, form)
    gradients = DenseRowGradients(draw(6, 15, seed=3), SHAPES)
    mask = draw(3, 6, 5, seed=4) > 0
    found = []
    for error in (dense_error, projected_error):
        weights = [draw(3, 5, layout.size, seed=seed).requires_grad_(True) for seed in (1, 2)]
        encoder, decoder = (Stack(layout, w) for w in weights)
        error(gradients, gradients.inner(encoder) * mask, decoder).sum().backward()
        found.append([w.grad for w in weights])
    for dense, projected in zip(*found, strict=True):
        assert dense.abs().sum() > 0
        torch.testing.assert_close(projected, dense, rtol=1e-10, atol=1e-10)


def test_reconstruct_is_its_parts_in_every_replica():
    encoder, decoder = stacks(3, 5)
    gradients = DenseRowGradients(draw(6, 15, seed=3), SHAPES)
    found = reconstruct(gradients, encoder, decoder, 0.2)
    # 0.2 of 6 · 5 = 30 pairs: 6 in each replica.
    assert found.active.sum((-2, -1)).tolist() == [6, 6, 6]
    for replica in range(3):
        alone = reconstruct(gradients, encoder.select(replica), decoder.select(replica), 0.2)
        assert torch.equal(found.active[replica], alone.active)
        rebuilt = (alone.coefficients * alone.active) @ decoder.flat()[replica]
        expected = (gradients.flat - rebuilt).square().sum() / gradients.flat.square().sum()
        torch.testing.assert_close(found.fvu[replica], expected)
        torch.testing.assert_close(alone.fvu, expected)


def test_everything_active_with_a_complete_orthonormal_stack_is_exact():
    q = torch.linalg.qr(draw(4, 4, seed=0)).Q
    stack = identity_stack(q)
    gradients = DenseRowGradients(draw(6, 4, seed=1), {"v": (4,)})
    assert abs(float(reconstruct(gradients, stack, stack, 1.0).fvu)) < 1e-14


def test_permuting_rows_changes_nothing():
    encoder, decoder = stacks(5)
    gradients = DenseRowGradients(draw(6, 15, seed=3), SHAPES)
    order = torch.tensor([5, 2, 0, 1, 4, 3])
    one = reconstruct(gradients, encoder, decoder, 0.2)
    other = reconstruct(gradients.rows(order), encoder, decoder, 0.2)
    assert torch.equal(one.active[order], other.active)
    torch.testing.assert_close(one.fvu, other.fvu)
