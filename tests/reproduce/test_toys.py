import pytest
import torch

from subscape.reproduce.toys import summarise, true_directions
from subscape.toys import SparseInputs, Toy
from subscape.toys.networks import Perceptron

RUN = {
    "seed": 4,
    "fvu": 0.2,
    "fvu_oracle": 0.1,
    "success": True,
    "matched": 5,
    "truths": 5,
    "subnetworks": 6,
}
OTHER = {
    "seed": 7,
    "fvu": 0.4,
    "fvu_oracle": 0.2,
    "success": False,
    "matched": 3,
    "truths": 5,
    "subnetworks": 5,
}


def test_a_summary_by_hand():
    summary = summarise([RUN, OTHER])
    assert summary["seeds"] == 2
    assert summary["fvu"] == pytest.approx({"mean": 0.3, "std": 0.1, "min": 0.2, "max": 0.4})
    assert (summary["success"], summary["failed_seeds"]) == (1, [7])
    assert (summary["matched"], summary["truths"]) == (8, 10)
    assert summary["oracle_gap"] == pytest.approx(0.15)


def test_inputs_of_two_signs_have_a_circuit_for_each():
    # |x| by two units, one for each sign; the parameters are w0, w1, b0, b1, out0, out1, bias.
    model = Perceptron(1, 2, 1, torch.relu, activate_last=False)
    model.load_state_dict({
        "layers.0.weight": torch.tensor([[1.0], [-1.0]]),
        "layers.0.bias": torch.zeros(2),
        "layers.1.weight": torch.ones(1, 2),
        "layers.1.bias": torch.zeros(1),
    })
    share = torch.zeros(1)
    toy = Toy("by hand", 0, model, SparseInputs(1, low=-1.0, high=1.0), 0.0, share, share <= 1)
    truth = true_directions(toy, "mse")
    assert truth.energy.shape == (2,)
    for sign in (0, 1):
        assert (truth.directions[sign, 1 - sign : 6 : 2].abs() < 1e-9).all()
        assert (truth.directions[sign, sign:6:2].abs() > 0.1).all()
