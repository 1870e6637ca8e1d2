import pytest
import torch

from subscape.reproduce.mixing import compare, mixing_recovery
from subscape.toys import ToyTraining, tmcs, true_subnetworks

W_IN = torch.tensor([[1.0, 2.0], [0.0, 1.0]])  # hidden by feature
W_OUT = torch.tensor([[1.0, 0.0], [1.0, 1.0]])  # output by hidden
# W_out W_in = [[1, 2], [1, 3]].


def test_readings_by_hand():
    # The gradient of feature j with output gradient e: e ⊗ W_in[:, j] in W_out, W_outᵀ e in column j of
    # W_in. e = (1, 0): W_outᵀ e = (1, 0).
    e = torch.tensor([1.0, 0.0])
    input_parts = torch.zeros(2, 2, 2)
    output_parts = torch.zeros(2, 2, 2)
    for k, feature in enumerate((1, 0)):
        input_parts[k, :, feature] = W_OUT.mT @ e
        output_parts[k] = torch.outer(e, W_IN[:, feature])
    a = torch.tensor([[1.0, 2.0], [1.0, 3.0]])
    found = mixing_recovery(-input_parts, -output_parts, W_IN, W_OUT, a)
    assert found.feature.tolist() == [1, 0]
    assert found.n_features == 2
    # V_out V_in = e (W_in[:, j] · W_outᵀ e): 2 e for feature 1, e for feature 0; the sign is gone.
    assert found.published.columns.tolist() == [pytest.approx([2, 0]), pytest.approx([1, 0])]
    # -(e |W_in[:, j]|² + W_out W_outᵀ e) = -(5 + 1, 1) and -(1 + 1, 1).
    assert found.change.columns.tolist() == [pytest.approx([-6, -1]), pytest.approx([-2, -1])]
    # V_out reads W_in[:, j], so W_out gives the target's own column whatever e is.
    assert found.read_out.r_squared == pytest.approx(1)
    assert found.read_out.pearson_scaled == pytest.approx(1)
    one = mixing_recovery(
        input_parts, output_parts, W_IN, W_OUT, a, alive=torch.tensor([False, True])
    )
    assert one.feature.tolist() == [0]


def test_compare_by_hand():
    right = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    # Scales -2 and 0.5 make it exact; as read (-.5, -1, 6, 8) it still correlates.
    found = compare(torch.tensor([[-0.5, -1.0], [6.0, 8.0]]), right)
    assert found.r_squared == pytest.approx(1)
    assert found.pearson_scaled == pytest.approx(1)
    assert 0.9 < found.pearson < 1
    # (1, 1) fits (1, 2) by 1.5: error .25 + .25; (1, 1) fits (3, 4) by 3.5: .5. Total 5: 1 - 1/5.
    assert compare(torch.ones(2, 2), right).r_squared == pytest.approx(0.8)


def test_the_true_subnetworks_of_tmcs_read_out_what_the_target_learned():
    toy = tmcs(0, training=ToyTraining(n_steps=300, learning_rate=0.03, n_candidates=2))
    truth = true_subnetworks(toy, "half-reference-mse").directions
    w_in, w_out = toy.model.W_in, toy.model.W_out
    size = w_in.numel()
    found = mixing_recovery(
        truth[:, :size].unflatten(1, w_in.shape),
        truth[:, size : 2 * size].unflatten(1, w_out.shape),
        w_in,
        w_out,
        toy.mixing,
    )
    assert found.feature.tolist() == list(range(10))
    assert found.read_out.r_squared > 0.99
    assert found.published.pearson > 0.8
