from dataclasses import replace

import pytest
import torch

from subscape import FixedOutput
from subscape.gradients import DenseRowGradients, GradientSource
from subscape.reproduce import toys as module
from subscape.reproduce.recipes import reproduction
from subscape.reproduce.toys import reproduce, summarise, true_directions
from subscape.targets import Target
from subscape.toys import SparseInputs, Toy, ToyTraining, row_gradients, tms, true_subnetworks
from subscape.toys.networks import Bottleneck, Perceptron

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


def test_where_negative_inputs_have_no_circuit_there_is_one_for_each_input():
    share = torch.zeros(1)
    model, inputs = Bottleneck(1, 1), SparseInputs(1, low=-1.0)
    with torch.no_grad():
        for name in ("W_in", "W_out"):
            getattr(model, name).fill_(1.0)
    toy = Toy("by hand", 0, model, inputs, 0.0, share, share <= 1, positive_only=True)
    truth = true_directions(toy, "mse")
    # Where the ReLU is open, (∂W_in, ∂W_out, ∂b) = (x, x, 1) 2 (f − r).
    assert truth.directions.shape == (1, 3)
    assert float(truth.directions[0, 0]) == pytest.approx(float(truth.directions[0, 1]))


def test_the_truth_in_a_metric_is_that_of_gradients_in_it():
    toy = tms(0, 3, 2, training=ToyTraining(n_steps=200, n_candidates=2))
    source = GradientSource(
        Target(toy.model), toy.sample(500, torch.Generator()), metric="kronecker"
    )
    plain = true_directions(toy, "mse").directions
    truth = true_directions(toy, "mse", source.geometry).directions
    x, others = toy.single(1, 40, torch.Generator()), toy.sample(40, torch.Generator())
    rows = row_gradients(toy, x, others)
    measured = row_gradients(toy, x, others, geometry=source.geometry)
    # What a metric does is linear, mode by mode.
    dense = DenseRowGradients(rows, source.shapes)
    metric = source.geometry.metric
    assert metric is not None
    torch.testing.assert_close(measured, dense.in_metric(metric.to(rows)).flat)
    explained = (measured @ truth.mT).square().sum(0) / measured.square().sum()
    assert explained.argmax() == 1
    assert explained[1] > (measured @ plain[1]).square().sum() / measured.square().sum()


def test_every_oracle_is_against_the_reference_of_the_rows(monkeypatch):
    what = reproduction("squared-paper")
    training = replace(what.training, steps=4, resample_every=0)
    toy_settings = {"training": ToyTraining(n_steps=1000, n_candidates=1)}
    seen = []

    def truth(*args, **options):
        seen.append(options["reference"])
        return true_subnetworks(*args, **options)

    monkeypatch.setattr(module, "true_subnetworks", truth)
    what = replace(what, reference="mean", training=training, toy_settings=toy_settings)
    (run,) = reproduce(what, [0], progress=False)["runs"]
    # Of either sign, and of each input whatever its sign.
    assert len(seen) == 3
    assert isinstance(seen[0], FixedOutput)
    assert all(one is seen[0] for one in seen)
    assert run["fvu_oracle"] <= run["fvu_oracle_by_input"]


def test_circuits_that_were_written_are_compared_with_their_weights_too():
    what = reproduction("superposed").of_toy({"n_features": 4, "n_hidden": 4, "n_neurons": 2})
    what = replace(what, training=replace(what.training, steps=300, resample_every=0, l0=1.0))
    (run,) = reproduce(what, [0], progress=False)["runs"]
    # Alone, a circuit's gradients are its weights: one verdict.
    assert run["circuits_mmcs"] == pytest.approx(run["mmcs"], abs=1e-6)
    assert run["energy"] == pytest.approx(1.0)
    assert run["truths"] == 4
    whitened = replace(what, reference="mean", row_weight=0.5, metric="kronecker")
    (run,) = reproduce(whitened, [0], progress=False)["runs"]
    assert "circuits_mmcs" not in run
