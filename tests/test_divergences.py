import math

import pytest
import torch
from torch import Tensor

from subscape.divergences import (
    NAMED,
    half_reference_mse,
    kl,
    mse,
    output_gradient,
    resolve,
)

F = torch.tensor([[1.0, 3.0], [0.0, 2.0]])
R = torch.tensor([[0.0, 1.0], [0.0, 2.0]])


def test_mse_by_hand():
    # Row 0: (1² + 2²) / 2 = 2.5. Row 1 equals its reference.
    assert mse(F, R).tolist() == [2.5, 0.0]


def test_half_reference_mse_by_hand():
    # Row 0: (1·1 + 3·2) / 2 = 3.5. Row 1: f (f − r) = 0, but its gradient is not (below).
    assert half_reference_mse(F, R).tolist() == [3.5, 0.0]


def test_kl_by_hand():
    # Reference: probabilities 1/4, 3/4. Prediction: 1/2, 1/2.
    # KL(r ‖ p) = 1/4 ln(1/2) + 3/4 ln(3/2); the other way round it would be 1/2 ln 2 + 1/2 ln(2/3).
    outputs, reference = torch.zeros(1, 2), torch.tensor([[0.0, math.log(3.0)]])
    expected = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    torch.testing.assert_close(kl(outputs, reference), torch.tensor([expected]))


def test_kl_does_not_see_a_constant_added_to_logits():
    outputs, reference = torch.randn(4, 5).double(), torch.randn(4, 5).double()
    torch.testing.assert_close(kl(outputs + 3, reference - 2), kl(outputs, reference))
    torch.testing.assert_close(kl(outputs, outputs), torch.zeros(4).double())


def test_kl_adds_up_over_positions():
    outputs, reference = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    by_position = torch.stack([kl(outputs[:, t], reference[:, t]) for t in range(3)])
    torch.testing.assert_close(kl(outputs, reference), by_position.sum(0))


@pytest.mark.parametrize("name", list(NAMED))
def test_rows_are_independent(name: str):
    outputs, reference = torch.randn(4, 3, 2), torch.randn(4, 3, 2)
    whole = NAMED[name](outputs, reference)
    assert whole.shape == (4,)
    for i in range(4):
        alone = NAMED[name](outputs[i : i + 1], reference[i : i + 1])
        torch.testing.assert_close(whole[i : i + 1], alone)


# ∂D/∂f


def test_output_gradients_by_hand():
    # mse: 2 (f − r) / 2 = f − r. half-reference-mse: (2 f − r) / 2, not null for a row that is its own
    # reference.
    assert output_gradient(mse, F, R).tolist() == [[1.0, 2.0], [0.0, 0.0]]
    assert output_gradient(half_reference_mse, F, R).tolist() == [[1.0, 2.5], [0.0, 1.0]]


def test_output_gradient_of_kl_is_the_difference_of_probabilities():
    outputs, reference = torch.randn(3, 4).double(), torch.randn(3, 4).double()
    expected = outputs.softmax(-1) - reference.softmax(-1)
    torch.testing.assert_close(output_gradient(kl, outputs, reference), expected)


def test_half_reference_mse_is_a_squared_error_to_half_the_reference():
    outputs, reference = torch.randn(3, 4).double(), torch.randn(3, 4).double()
    torch.testing.assert_close(
        output_gradient(half_reference_mse, outputs, reference),
        output_gradient(mse, outputs, reference / 2),
    )


def test_output_gradient_works_without_grad_mode_and_leaves_no_graph():
    outputs = torch.randn(3, 4, requires_grad=True)
    reference = torch.randn(3, 4, requires_grad=True)
    with torch.no_grad():
        found = output_gradient(mse, outputs, reference)
    torch.testing.assert_close(found, ((outputs - reference) / 2).detach())
    assert not found.requires_grad
    assert outputs.grad is None
    assert reference.grad is None


# Names


def test_names_and_callables_resolve():
    def own(outputs: Tensor, reference: Tensor) -> Tensor:
        return outputs.flatten(1).sum(1)

    assert resolve("mse") is mse
    assert resolve("half-reference-mse") is half_reference_mse
    assert resolve("kl") is kl
    assert resolve(own) is own
