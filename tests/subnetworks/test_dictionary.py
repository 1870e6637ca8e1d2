"""From row gradients to codes and the parts of the loss."""

import pytest
import torch
from torch import nn

from subscape import GradientSource, Target
from subscape.gradients import DenseRowGradients
from subscape.gradients.row_gradients import FactoredRowGradients
from subscape.lowrank import Stack, make_layout
from subscape.lowrank.stack import unit
from subscape.subnetworks import dense_error
from subscape.subnetworks.dictionary import Dictionary
from subscape.subnetworks.selection import SELECTIONS, BatchTopK, JumpReLU
from tests.conftest import normal

SHAPES = {"w": (4, 3), "b": (3,)}
CLOSE = {"rtol": 1e-9, "atol": 1e-9}
EVERY = pytest.mark.parametrize("kind", list(SELECTIONS))


def dictionary(*lead, l0=1.0, kind="batch-top-k", shapes=None, form="tucker"):
    layout = make_layout(shapes or SHAPES, 2, form)
    encoder, decoder = (unit(Stack(layout, normal(*lead, layout.size, seed=s))) for s in (1, 2))
    return Dictionary(encoder, decoder, SELECTIONS[kind](l0, torch.Size(lead), decoder.weights))


def of_vectors(encoder, decoder, l0):
    """Directions of one whole vector: what is in them is what is in the weights."""
    layout = make_layout({"v": (encoder.shape[-1],)}, 1)
    selection = BatchTopK(l0, encoder.shape[:-1], encoder)
    return Dictionary(Stack(layout, encoder), Stack(layout, decoder), selection)


def rows(*values):
    flat = torch.tensor(values)
    return DenseRowGradients(flat, {"v": (flat.shape[1],)})


# By hand


def test_fvu_of_two_rows_by_hand():
    # Coefficients 3, 4 / 0, 2. Two of four are kept: 3 and 4. Row 0 is rebuilt, row 1 becomes 0.
    # FVU = 2² / (25 + 4) = 4 / 29.
    found = of_vectors(torch.eye(2), torch.eye(2), 1.0)(rows([3.0, 4.0], [0.0, 2.0]))
    assert found.codes.tolist() == [[3.0, 4.0], [0.0, 0.0]]
    assert float(found.total) == 29.0
    assert found.error.item() == pytest.approx(4.0)
    assert found.fvu.item() == found.loss.item() == pytest.approx(4 / 29)


def test_fvu_is_uncentred_and_pooled():
    # Two equal rows: a centred measure would divide by 0, a mean of ratios would give 1/2.
    # Ties: row 0 is kept whole (2 of 4), row 1 not: 2 / 4.
    eye = torch.eye(2)
    found = of_vectors(eye, eye, 1.0).reconstruct(rows([1.0, 1.0], [1.0, 1.0]))
    assert float(found.fvu) == pytest.approx(0.5)
    # A long row counts for more: rows 3 and 1, one of two kept: 1 / 10.
    one = torch.ones(1, 1)
    assert float(of_vectors(one, one, 0.5).reconstruct(rows([3.0], [1.0])).fvu) == pytest.approx(
        0.1
    )


def test_encoder_selects_and_decoder_rebuilds():
    # Coefficients 2, 1; one of two is kept: 2 along (1, 0). g − ĝ = (−1, 2): 5 / 5.
    made = of_vectors(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.eye(2), 1.0)
    assert float(made.reconstruct(rows([1.0, 2.0])).fvu) == pytest.approx(1.0)


def test_everything_active_with_a_complete_orthonormal_stack_is_exact():
    q = torch.linalg.qr(normal(4, 4)).Q
    gradients = DenseRowGradients(normal(6, 4), {"v": (4,)})
    found = of_vectors(q, q, 1.0)(gradients, everything=True)
    assert (found.codes != 0).all()
    assert abs(found.fvu.item()) < 1e-14


# Against the definition


def factored(lead):
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    source = GradientSource(Target(model), normal(12, 2, 3), engine={"*": "auto"})
    found = source.gradients(source.rows(0, 12))
    assert isinstance(found, FactoredRowGradients)
    return found


KINDS = {
    "dense": lambda lead: DenseRowGradients(normal(12, 15), SHAPES),
    "dense, rows of every source": lambda lead: DenseRowGradients(
        normal(*lead[:1], 12, 15), SHAPES
    ),
    "factored": factored,
}


@pytest.mark.parametrize("form", ["tucker", "cp"])
@EVERY
@pytest.mark.parametrize("of", list(KINDS))
def test_the_forward_pass_is_the_definition(of, kind, form):
    lead = (2, 5) if of == "factored" else (2, 3, 5)
    gradients = KINDS[of](lead)
    shapes = (
        {name: tuple(d.shape[1:]) for name, d in gradients.dense().items()}
        if of == "factored"
        else SHAPES
    )
    made = dictionary(*lead, kind=kind, shapes=shapes, form=form)
    dense = DenseRowGradients(gradients.flat, shapes)
    found = made(gradients)
    coefficients = dense.inner(made.encoder)
    active = found.codes != 0
    assert active.sum((-2, -1)).unique().tolist() == [12]  # l0 = 1; thresholds begin there
    torch.testing.assert_close(found.codes, coefficients * active, **CLOSE)
    error = dense_error(dense, coefficients * active, made.decoder)
    torch.testing.assert_close(found.error, error, **CLOSE)
    torch.testing.assert_close(found.fvu, error / found.total, **CLOSE)
    # The gradient too, mask held fixed.
    parameters = [made.encoder_weights, made.decoder_weights]
    fast = torch.autograd.grad(found.loss, parameters, retain_graph=True)
    slow = torch.autograd.grad((error / found.total.detach()).sum(), parameters)
    for one, other in zip(fast, slow, strict=True):
        assert other.abs().max() > 1e-3
        torch.testing.assert_close(one, other, **CLOSE)
    again = made.reconstruct(gradients)
    torch.testing.assert_close(again.error, error.detach(), **CLOSE)
    assert torch.equal(again.codes != 0, active)
    assert not again.error.requires_grad


def test_the_penalty_is_a_part_of_the_loss():
    made = dictionary(2, 5, kind="jumprelu")
    gradients = DenseRowGradients(normal(12, 15), SHAPES)
    made(gradients)
    assert isinstance(made.selection, JumpReLU)
    with torch.no_grad():
        made.selection.log_threshold.sub_(1.0)
    found = made(gradients)
    assert found.penalty is not None
    assert (found.penalty > 0).all()
    torch.testing.assert_close(found.loss, (found.fvu + found.penalty).sum())
    assert made(gradients, everything=True).penalty is None


@EVERY
def test_permuting_rows_changes_nothing(kind):
    made, gradients = dictionary(5, kind=kind), DenseRowGradients(normal(6, 15), SHAPES)
    order = torch.tensor([5, 2, 0, 1, 4, 3])
    one, other = made(gradients), made(gradients.rows(order))
    torch.testing.assert_close((one.codes[order], one.fvu), (other.codes, other.fvu))


def test_alone_every_row_is_selected_by_itself():
    made = dictionary(5)
    gradients = DenseRowGradients(normal(6, 15, seed=3), SHAPES)
    made.selection.calibrate(gradients.inner(made.encoder).detach().abs())
    whole = made.reconstruct(gradients, alone=True)
    parts = [made.reconstruct(gradients.rows(slice(i, i + 1)), alone=True) for i in range(6)]
    torch.testing.assert_close(torch.cat([part.codes for part in parts]), whole.codes)
    torch.testing.assert_close(torch.stack([part.error for part in parts]).sum(), whole.error)
    assert int((whole.codes != 0).sum()) == 6


# Replicas


@EVERY
def test_sources_and_replicas_do_not_see_each_other(kind):
    made = dictionary(2, 3, 5, kind=kind)
    flat = normal(2, 12, 15)
    together = made(DenseRowGradients(flat, SHAPES))
    together.loss.backward()
    for source in range(2):
        for replica in range(3):
            alone = made.select(source).select(replica)  # a frozen copy
            assert not any(p.requires_grad for p in alone.parameters())
            alone.requires_grad_(True)
            found = alone(DenseRowGradients(flat[source], SHAPES))
            torch.testing.assert_close(found.fvu, together.fvu[source, replica])
            torch.testing.assert_close(found.codes, together.codes[source, replica])
            found.loss.backward()
            for name, parameter in alone.named_parameters():
                whole = made.get_parameter(name).grad
                assert whole is not None
                torch.testing.assert_close(parameter.grad, whole[source, replica], **CLOSE)
    with torch.no_grad():
        made.decoder_weights.zero_()
    assert alone.decoder.weights.any()


def test_normalising_makes_decoder_rows_unit_and_nothing_else():
    made = dictionary(2, 5)
    with torch.no_grad():
        made.encoder_weights.mul_(3.0)
        made.decoder_weights.mul_(2.0)
    before = made.decoder.flat().detach()
    encoder = made.encoder_weights.detach().clone()
    made.normalise()
    norms = made.decoder.flat().norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones(2, 5).double(), rtol=1e-12, atol=0)
    direction = before / before.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(made.decoder.flat(), direction)
    assert torch.equal(made.encoder_weights, encoder)


@EVERY
def test_its_state_is_all_of_it(kind):
    one, other = dictionary(2, 5, kind=kind), dictionary(2, 5, kind=kind)
    gradients = DenseRowGradients(normal(12, 15), SHAPES)
    with torch.no_grad():
        one.encoder_weights.copy_(normal(2, 5, one.layout.size, seed=7))
        one.decoder_weights.copy_(normal(2, 5, one.layout.size, seed=8))
    one(gradients)
    one.selection.calibrate(gradients.inner(one.encoder).detach().abs())
    other.load_state_dict(one.state_dict())
    for alone in (False, True):
        found, expected = (d.reconstruct(gradients, alone=alone) for d in (other, one))
        assert torch.equal(found.codes, expected.codes)
        assert torch.equal(found.error, expected.error)
