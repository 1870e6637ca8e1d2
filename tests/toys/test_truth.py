import pytest
import torch

from subscape.divergences import MSE
from subscape.gradients import loop_gradients
from subscape.targets import Target
from subscape.toys import SparseInputs, Toy, row_gradients, true_subnetworks
from subscape.toys.networks import Bottleneck
from subscape.toys.truth import top_right_singular_vector


@pytest.fixture(scope="module")
def toy(trained):
    return trained[0]


def toy_with(model, n_groups):
    shares = torch.zeros(n_groups)
    return Toy("by hand", 0, model, SparseInputs(n_groups), 0.0, shares, shares <= 1)


def test_row_gradients_by_hand():
    model = Bottleneck(1, 1)
    values = {"W_in": [[2.0]], "W_out": [[0.5]], "bias": [0.0]}
    model.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
    toy = toy_with(model, 1)
    x, reference = torch.tensor([[1.0]]), torch.tensor([[0.5]])
    # f = 1, r = 0.5. mse: dD/df = 2 (f - r) = 1; half reference: 2 f - r = 1.5.
    # df/dW_in = W_out x = 0.5, df/dW_out = W_in x = 2, df/db = 1.
    for divergence, factor in {"mse": 1.0, "half-reference-mse": 1.5}.items():
        expected = [0.5 * factor, 2.0 * factor, factor]
        found = row_gradients(toy, x, reference, divergence)
        assert found.tolist() == [pytest.approx(expected)]


def test_row_gradients_agree_with_the_loop_oracle(toy):
    g = torch.Generator().manual_seed(0)
    x, other = toy.sample(6, g), toy.sample(6, g)
    target = Target(toy.model)
    with torch.no_grad():
        reference = toy.model(other)
    expected = loop_gradients(target, x, None, reference, MSE).flat
    torch.testing.assert_close(row_gradients(toy, x, other).float(), expected)


def test_top_right_singular_vector_by_hand():
    # MᵀM = [[9 + 0, 0], [0, 1]]: the first axis holds 9 of 10.
    tall = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]]).double()
    assert top_right_singular_vector(tall).tolist() == pytest.approx([1.0, 0.0])
    # One row: the row itself, its largest entry made positive.
    wide = torch.tensor([[-3.0, 4.0, 0.0]]).double()
    assert top_right_singular_vector(wide).tolist() == pytest.approx([-0.6, 0.8, 0.0])
    assert top_right_singular_vector(-wide).tolist() == pytest.approx([-0.6, 0.8, 0.0])


@pytest.mark.parametrize("divergence", ["mse", "half-reference-mse"])
def test_tms_truths_are_the_analytic_blocks(toy, divergence):
    truth = true_subnetworks(toy, divergence)
    assert truth.directions.shape == (5, 25)
    torch.testing.assert_close(truth.directions.norm(dim=1), torch.ones(5).double())
    w = toy.model.W_in.detach().double()
    for j in range(5):
        # But for a little leakage only output j is open: with e = dD/df_j, g is e x W_out[j] in
        # W_in[:, j], e x W_in[:, j] in W_out[j] and e in b_j. So t_j lies in the plane of
        # (W_out[j], W_in[:, j], 0) and (0, 0, 1).
        parts = torch.zeros(2, 25).double()
        parts[0, :10].view(2, 5)[:, j] = w[:, j]
        parts[0, 10:20].view(5, 2)[j] = w[:, j]
        parts[1, 20 + j] = 1.0
        parts = parts / parts.norm(dim=1, keepdim=True)
        inside = (parts @ truth.directions[j]).square().sum()
        assert inside > 0.99
    assert (truth.energy > 0.75).all()
    assert (truth.energy <= 1 + 1e-12).all()


def test_truths_of_chosen_parameters_and_by_another_direction(toy):
    assert true_subnetworks(toy, parameters="W_*").directions.shape == (5, 20)
    mean = true_subnetworks(toy, direction=lambda g: g.mean(0), n_samples=64)
    assert mean.directions.shape == (5, 25)
    # No direction holds more energy than the top singular vector.
    top = true_subnetworks(toy, n_samples=64)
    assert (top.energy >= mean.energy - 1e-12).all()


def test_a_target_without_a_feature_is_refused():
    with pytest.raises(ValueError, match="zero gradients for group 0"):
        true_subnetworks(toy_with(Bottleneck(2, 1), 2), n_samples=8)
