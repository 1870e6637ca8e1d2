import math

import pytest
import torch

from subscape.divergences import (
    DIVERGENCES,
    HALF_REFERENCE_MSE,
    KL,
    MSE,
    Divergence,
    as_divergence,
    output_gradient,
)

F = torch.tensor([[1.0, 3.0], [0.0, 2.0]])
R = torch.tensor([[0.0, 1.0], [0.0, 2.0]])


def pair(*shape):
    return torch.randn(*shape).double(), torch.randn(*shape).double()


def test_squared_errors_by_hand():
    # Row 0: (1² + 2²) / 2 = 2.5. Row 1 equals its reference.
    assert MSE(F, R).tolist() == [2.5, 0.0]
    # Row 0: (1·1 + 3·2) / 2 = 3.5. Row 1: f (f − r) = 0, but its gradient is not (below).
    assert HALF_REFERENCE_MSE(F, R).tolist() == [3.5, 0.0]


def test_kl_by_hand():
    # Reference: probabilities 1/4, 3/4. Prediction: 1/2, 1/2.
    # KL(r ‖ p) = 1/4 ln(1/2) + 3/4 ln(3/2); the other way round it would be 1/2 ln 2 + 1/2 ln(2/3).
    outputs, reference = torch.zeros(1, 2), torch.tensor([[0.0, math.log(3.0)]])
    expected = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    torch.testing.assert_close(KL(outputs, reference), torch.tensor([expected]))


def test_kl_does_not_see_a_constant_added_to_logits_and_adds_up_over_positions():
    outputs, reference = pair(4, 5)
    torch.testing.assert_close(KL(outputs + 3, reference - 2), KL(outputs, reference))
    torch.testing.assert_close(KL(outputs, outputs), torch.zeros(4).double())
    outputs, reference = pair(2, 3, 5)
    by_position = torch.stack([KL(outputs[:, t], reference[:, t]) for t in range(3)])
    torch.testing.assert_close(KL(outputs, reference), by_position.sum(0))


@pytest.mark.parametrize("divergence", DIVERGENCES.values(), ids=list(DIVERGENCES))
def test_rows_are_independent(divergence):
    outputs, reference = pair(4, 3, 2)
    whole = divergence(outputs, reference)
    assert whole.shape == (4,)
    for i in range(4):
        alone = divergence(outputs[i : i + 1], reference[i : i + 1])
        torch.testing.assert_close(whole[i : i + 1], alone)


def own(outputs, reference):
    return outputs.flatten(1).sum(1)


def test_names_and_functions():
    assert {"mse": MSE, "half-reference-mse": HALF_REFERENCE_MSE, "kl": KL} == DIVERGENCES
    for name, divergence in DIVERGENCES.items():
        assert as_divergence(name) is as_divergence(divergence) is divergence
        assert divergence.name == name
    assert [d.unit for d in DIVERGENCES.values()] == ["squared output", "squared output", "nats"]
    assert [d.logits for d in DIVERGENCES.values()] == [False, False, True]
    with pytest.raises(ValueError, match=r"^divergence: .* got 'MSE'. Did you mean 'mse'\?"):
        as_divergence("MSE")


def test_a_function_is_a_divergence_of_unknown_unit():
    made = as_divergence(own)
    assert made(F, R).tolist() == [4.0, 2.0]
    assert output_gradient(made, F, R).tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert (made.name, made.unit, made.logits) == ("own", "an unknown unit", False)
    assert made.of_changes is made
    named = Divergence("mine", own, "metres")
    assert as_divergence(named) is named


def test_what_is_no_distance_is_not_used_to_tell_how_far_an_output_moved():
    assert [d.of_changes for d in DIVERGENCES.values()] == [MSE, MSE, KL]
    # The reason: f (f − r) is smallest at r / 2 and negative in between.
    assert HALF_REFERENCE_MSE(R / 2, R).tolist() == [-0.125, -0.5]


def test_averages_are_of_outputs_or_of_distributions():
    assert MSE.from_average(MSE.to_average(F).mean(0)).tolist() == [0.5, 2.5]
    # Probabilities 1/4, 3/4 and 3/4, 1/4 have the mean 1/2, 1/2; no probability has a logarithm of −∞.
    logits = torch.tensor([[1.0, 3.0], [3.0, 1.0]]).log()
    mean = KL.from_average(KL.to_average(logits).mean(0))
    torch.testing.assert_close(mean.exp(), torch.tensor([0.5, 0.5]))
    assert torch.isfinite(KL.from_average(torch.tensor([0.0, 1.0]))).all()


def test_output_gradients_by_hand():
    # mse: 2 (f − r) / 2 = f − r. half-reference-mse: (2 f − r) / 2, not null for a row that is its own
    # reference.
    assert output_gradient(MSE, F, R).tolist() == [[1.0, 2.0], [0.0, 0.0]]
    assert output_gradient(HALF_REFERENCE_MSE, F, R).tolist() == [[1.0, 2.5], [0.0, 1.0]]


def test_output_gradients_by_other_means():
    outputs, reference = (x.requires_grad_() for x in pair(3, 4))
    with torch.no_grad():
        kl, half, mse = (
            output_gradient(d, outputs, reference) for d in (KL, HALF_REFERENCE_MSE, MSE)
        )
        torch.testing.assert_close(kl, outputs.softmax(-1) - reference.softmax(-1))
        # A squared error to half the reference.
        torch.testing.assert_close(half, output_gradient(MSE, outputs, reference / 2))
        torch.testing.assert_close(mse, (outputs - reference) / 2)
    # It works without grad mode and leaves no graph.
    assert not mse.requires_grad
    assert outputs.grad is None
    assert reference.grad is None
