"""The user's model after a decomposition is, in every respect, the one before."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from subscape import MeasureConfig, Target, decompose, measure
from subscape.training import stream
from tests.conftest import Made, tiny

OPTIONS = {
    "n_subnetworks": 3,
    "rank": 1,
    "active_fraction": 0.5,
    "steps": 6,
    "batch_size": 8,
    "n_heldout_rows": 16,
    "progress": False,
    "resample_every": 3,
}


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    """The loop takes its time over every row."""
    monkeypatch.setattr(stream, "JUDGING_ROWS", 16)
    monkeypatch.setattr(stream, "PREFETCH_STEPS", 2)


def sharing():
    """Tied weights, a raw parameter, buffers, a frozen tensor, hooks, and an old gradient."""

    def forward(self, x):
        h = self.dropout(torch.tanh(self.norm(self.first(x))))
        return self.second(h) @ self.mix + self.shift

    first, second = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
    second.weight = first.weight
    parts = {"mix": torch.randn(4, 3), "norm": nn.BatchNorm1d(4), "dropout": nn.Dropout(0.5)}
    model = Made(forward, first=first, second=second, **parts).eval()
    model.register_buffer("shift", torch.ones(3), persistent=False)
    model.first.train()  # a flag that does no harm, and that nobody may reset
    model.norm.weight.requires_grad_(False)
    model.mix.grad = torch.full((4, 3), 2.0)
    model.first.register_forward_hook(lambda module, inputs, output: None)
    model.register_forward_pre_hook(lambda module, inputs: None)
    return model, torch.randn(40, 4), {}


def llama():
    data = {"input_ids": torch.randint(0, 11, (40, 5))}
    model = tiny("llama", num_hidden_layers=1)
    return model, data, {"rows": "sampled-token", "divergence": "kl"}


def one_module_under_two_names():
    linear, block = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    model = nn.Sequential(linear, nn.Tanh(), linear, nn.ModuleList([block] * 2)[0], block)
    return model, torch.randn(40, 4), {}


def record(model):
    """Everything about a model that a library could leave changed."""
    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    modules = dict(model.named_modules())
    return {
        "values": {name: t.detach().clone() for name, t in tensors.items()},
        "identities": {name: id(t) for name, t in tensors.items()},
        "order": [list(model.state_dict()), [n for n, _ in model.named_parameters()]],
        "requires_grad": {name: t.requires_grad for name, t in tensors.items()},
        "grad": {name: None if t.grad is None else t.grad.clone() for name, t in tensors.items()},
        "tensor attributes": {name: sorted(vars(t)) for name, t in tensors.items()},
        "training": {name: m.training for name, m in modules.items()},
        "module attributes": {name: list(vars(m)) for name, m in modules.items()},
        "classes": {name: type(m) for name, m in modules.items()},
        "hooks": {
            name: {k: list(v) for k, v in vars(m).items() if "hooks" in k and v is not None}
            for name, m in modules.items()
        },
    }


def same(one, other):
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[k], other[k]) for k in one)
    return one == other


def assert_unchanged(before, model):
    after = record(model)
    for aspect, value in before.items():
        assert same(value, after[aspect]), aspect


EVERY_MODEL = pytest.mark.parametrize("make", [sharing, llama, one_module_under_two_names])
EVERY_ENGINE = pytest.mark.parametrize("engine", ["auto", "vmap", "loop"])


@EVERY_MODEL
@EVERY_ENGINE
def test_neither_a_decomposition_nor_an_exception_in_the_middle_leaves_a_trace(make, engine):
    model, data, options = make()
    before = record(model)
    decompose(model, data, engine=engine, **OPTIONS, **options)
    assert_unchanged(before, model)
    calls = []

    def third_time_fails(outputs, reference):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("in the divergence")
        return (outputs - reference).square().flatten(1).mean(1)

    options = options | {"divergence": third_time_fails, "engine": engine}
    with pytest.raises(RuntimeError, match="in the divergence"):
        decompose(model, data, **OPTIONS, **options)
    assert len(calls) == 3
    assert_unchanged(before, model)


@pytest.mark.parametrize("engine", ["jacobian", "rule", "replay", "vmap", "loop"])
def test_a_module_under_two_names_keeps_its_parameters(engine):
    model, data, _ = one_module_under_two_names()
    before = record(model)
    found = decompose(model, data, engine=engine, **OPTIONS)
    assert_unchanged(before, model)
    config = MeasureConfig(n_rows=16, n_references=2)
    measure(found, Target(model), data, config=config, progress=False)
    assert_unchanged(before, model)
    found.verify(Target(model))


@pytest.mark.parametrize("engine", ["jacobian", "vmap", "loop"])
def test_an_exception_in_the_model_itself_leaves_no_trace(engine):
    calls = []

    def forward(self, x):
        """Fails in the middle of its own forward, where its parameters are replaced."""
        y = self.linear(x)
        calls.append(1)
        if len(calls) == 4:
            raise KeyError("in the model")
        return y

    model = Made(forward, linear=nn.Linear(4, 3))
    before = record(model)
    with pytest.raises(KeyError, match="in the model"):
        decompose(model, torch.randn(200, 4), engine=engine, **OPTIONS)
    assert_unchanged(before, model)


def test_the_record_sees_every_kind_of_change():
    """Guards the guard."""
    changes: dict[str, Callable[[nn.Module], Any]] = {
        "values": lambda m: m.mix.data.add_(1e-6),
        "identities": lambda m: setattr(m, "mix", nn.Parameter(m.mix.detach().clone())),
        "requires_grad": lambda m: m.norm.weight.requires_grad_(True),
        "grad": lambda m: setattr(m.mix, "grad", None),
        "tensor attributes": lambda m: setattr(m.mix, "captured", 1),
        "training": lambda m: m.first.eval(),
        "module attributes": lambda m: setattr(m.first, "captured", 1),
        "hooks": lambda m: m.second.register_forward_pre_hook(lambda module, inputs: None),
    }
    for aspect, change in changes.items():
        model, _, _ = sharing()
        before = record(model)
        change(model)
        assert not same(before[aspect], record(model)[aspect]), aspect
