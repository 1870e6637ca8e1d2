"""A model moved along its subnetworks gives what an edit gives, and gradients for the coefficients alone."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from subscape import Decomposition, SteeredModel, Target
from subscape.lowrank import initial_stack, make_layout
from tests.conftest import Made, tiny
from tests.subnetworks.conftest import untrained_of

DELTAS = {0: 0.7, 2: -1.2}


def set_to(steered, deltas):
    with torch.no_grad():
        sizes = [deltas.get(k, 0.0) for k in steered.subnetworks]
        steered.coefficients.copy_(torch.tensor(sizes))


def test_it_is_the_edit(case):
    steered = SteeredModel(case.found, case.model)
    assert torch.equal(steered(case.x), case.model(case.x))
    set_to(steered, DELTAS)
    with case.found.edit(case.model, DELTAS) as edited:
        expected = edited(case.x)
    torch.testing.assert_close(steered(case.x), expected)
    torch.testing.assert_close(steered.outputs(case.x), expected)
    assert steered.deltas == pytest.approx({0: 0.7, 1: 0, 2: -1.2, 3: 0, 4: 0})


def test_a_plain_loop(case):
    before = copy.deepcopy(case.model.state_dict())
    steered = SteeredModel(case.found, case.model, [1, 3])
    assert [name for name, _ in steered.named_parameters()] == ["coefficients"]
    assert list(steered.state_dict()) == ["coefficients"]
    optimiser = torch.optim.LBFGS(steered.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = (steered(case.x) - case.y).square().mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    assert steered.deltas == pytest.approx(case.deltas, abs=1e-3)
    for name, value in case.model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.grad is None and p.requires_grad for p in case.model.parameters())
    steered.train()
    assert not case.model.training


def test_gradients_are_those_of_moving_the_weights(case):
    steered = SteeredModel(case.found, case.model, [0, 4])
    set_to(steered, {0: 0.3})
    steered(case.x).sum().backward()
    for place, k in enumerate([0, 4]):
        values = []
        for step in (1e-5, -1e-5):
            moved = {0: 0.3, 4: 0.0}
            moved[k] += step
            with case.found.edit(case.model, moved) as edited, torch.no_grad():
                values.append(float(edited(case.x).sum()))
        slope = (values[0] - values[1]) / 2e-5
        assert float(steered.coefficients.grad[place]) == pytest.approx(slope, rel=1e-6)


def shared_weight():
    """One weight in two layers, one of which has two names."""

    def forward(self, x):
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))

    a, b, c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
    b.weight = a.weight
    return Made(forward, a=a, b=b, again=b, c=c)


def test_tied_and_doubly_registered_modules():
    model, x = shared_weight(), torch.randn(7, 4)
    names = ["a.weight", "b.weight", "again.weight", "c.weight"]
    found = untrained_of(Target(model, names), 3)
    before = model(x)
    steered = SteeredModel(found, model)
    set_to(steered, DELTAS)
    with found.edit(model, DELTAS) as edited:
        expected = edited(x)
    assert (expected - before).abs().max() > 1e-2
    torch.testing.assert_close(steered(x), expected)
    assert torch.equal(model(x), before)


def test_a_language_model_returns_its_own_outputs():
    model = tiny("llama")
    found = untrained_of(Target(model, "model.layers.1.self_attn"), 3)
    steered, ids = SteeredModel(found, model), torch.randint(0, 11, (2, 5))
    set_to(steered, DELTAS)
    given = steered(input_ids=ids, labels=ids)
    with found.edit(model, DELTAS) as edited:
        expected = edited(input_ids=ids, labels=ids)
    assert type(given) is type(expected)
    torch.testing.assert_close(given.logits, expected.logits)
    torch.testing.assert_close(given.loss, expected.loss)
    given.loss.backward()
    assert all(p.grad is None for p in model.parameters())


def test_half_precision_is_rounded_as_an_edit_is():
    model = nn.Linear(6, 4).bfloat16()
    found = untrained_of(Target(model), 3)
    steered = SteeredModel(found, model)
    assert steered.coefficients.dtype == torch.float32
    set_to(steered, DELTAS)
    set_to(steered, DELTAS)
    moved = steered.weights()["weight"]
    assert moved.dtype == torch.bfloat16
    with found.edit(model, DELTAS) as edited:
        assert torch.equal(moved, edited.weight)


def test_the_metrics_directions_are_pushed(case, monkeypatch):
    layout = make_layout({t.name: t.shape for t in case.found.layout.tensors}, 2, "tucker")
    like = case.found.decoder.weights
    other = initial_stack(layout, (5,), torch.Generator().manual_seed(7), like)
    monkeypatch.setattr(Decomposition, "directions", other)
    steered = SteeredModel(replace(case.found), case.model)
    set_to(steered, {1: 1.0})
    expected = case.model[0].weight + other.dense()["0.weight"][1]
    torch.testing.assert_close(steered.weights()["0.weight"], expected.detach())


def test_a_copy_stands_for_itself(case):
    steered = SteeredModel(case.found, case.model)
    other = copy.deepcopy(steered)
    set_to(other, DELTAS)
    with torch.no_grad():
        case.model[0].weight.zero_()
    assert not torch.equal(other(case.x), steered(case.x))
    assert other.model is not case.model


def test_to_moves_the_model_too(case):
    steered = SteeredModel(case.found, case.model).to(torch.float32)
    assert case.model[0].weight.dtype == torch.float32
    assert steered(case.x.float()).dtype == torch.float32


def test_what_is_refused(case):
    for wrong in ([5], [-1], [True]):
        with pytest.raises(IndexError, match="some of the subnetworks 0 to 4"):
            SteeredModel(case.found, case.model, wrong)
    with pytest.raises(ValueError, match="each one once"):
        SteeredModel(case.found, case.model, [1, 1])
    with pytest.raises(ValueError, match="got none"):
        SteeredModel(case.found, case.model, [])
    with torch.no_grad():
        case.model[0].weight.add_(1)
    with pytest.raises(ValueError, match="same shapes, other values"):
        SteeredModel(case.found, case.model)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_checkpointing_is_refused():
    model = tiny("llama")
    found = untrained_of(Target(model, "model.layers.1.self_attn"), 3)
    model.gradient_checkpointing_enable()
    model.train()
    with pytest.raises(ValueError, match="without gradient checkpointing"):
        SteeredModel(found, model)(input_ids=torch.zeros(1, 3, dtype=torch.long))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_a_hugging_face_trainer(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    model, ids = tiny("llama"), torch.randint(0, 11, (16, 6))
    found = untrained_of(Target(model, "model.layers.1.self_attn"), 3)
    before = copy.deepcopy(model.state_dict())
    steered = SteeredModel(found, model)
    with torch.no_grad():
        start = float(steered(input_ids=ids, labels=ids).loss)
    trainer = transformers.Trainer(
        model=steered,
        args=transformers.TrainingArguments(
            output_dir=str(tmp_path / "trainer"),
            max_steps=20,
            learning_rate=0.1,
            per_device_train_batch_size=8,
            remove_unused_columns=False,
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        ),
        train_dataset=[{"input_ids": row, "labels": row} for row in ids],
    )
    trainer.train()
    with torch.no_grad():
        assert float(steered(input_ids=ids, labels=ids).loss) < start - 0.01
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert not model.training
    checkpoint = tmp_path / "trainer" / "checkpoint-20"
    assert (checkpoint / "model.safetensors").stat().st_size < 1000
