"""Hazards, a test each: what engines may get wrong, and that the choice of engines sees it."""

import warnings
from collections.abc import Mapping

import pytest
import torch
from torch import nn
from torch.nn import functional

from subscape import GradientSource, Target
from subscape.gradients import choose
from subscape.gradients.plan import TOLERANCE, relative_error
from tests.conftest import Made
from tests.gradients.conftest import assert_right, exact

N_SAMPLES = 6
AUTO: Mapping[str, str] = {"*": "auto"}
"""A choice by tensor; plain 'auto' would take the cached Jacobian for models as small as these."""


KINDS = pytest.mark.parametrize("rows", ["sample", "sampled-token", "token"])


def normal(*shape):
    return torch.randn(shape, dtype=torch.float64)


def source_of(model, data, parameters="*", *, engine=AUTO, rows="sample"):
    target = Target(model.double(), parameters)
    return GradientSource(target, data, engine=engine, rows=rows, reference="uniform")


def square():
    return nn.Linear(4, 4)


# Operations in place


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Hardswish, nn.SiLU, nn.ELU])
def test_an_activation_in_place_behind_a_captured_module(activation):
    model = nn.Sequential(
        nn.Linear(4, 5), activation(inplace=True), nn.Linear(5, 3), activation(inplace=True)
    )
    assert_right(source_of(model, normal(N_SAMPLES, 4), engine="rule"))


def test_an_input_that_is_changed_in_place_later_is_noticed():
    def forward(self, inputs):
        hidden = torch.sin(inputs)
        outputs = self.second(self.first(hidden))
        hidden.square_()  # what a linear layer has read before
        return outputs * hidden.sum(1, keepdim=True)

    data, model = normal(N_SAMPLES, 4), Made(forward, first=square(), second=nn.Linear(4, 3))
    wanted = ["first.bias", "second"]
    # Plain autograd itself needs the input for the weight, not for the bias.
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        source_of(model, data, "first")
    model.first.weight.requires_grad_(False)
    with pytest.raises(ValueError, match="'first' that stay as they are; got one that is changed"):
        source_of(model, data, wanted, engine="rule")
    source = source_of(model, data, wanted)
    assert source.engines["first.bias"] == "vmap"
    assert_right(source)


def test_an_input_that_is_changed_in_place_within_the_module_is_noticed():
    # Its own parameter is of no known module, and its input is not the same after the call.
    changing = Made(lambda self, x: x.square_() @ self.kernel, kernel=torch.randn(4, 4))
    model = nn.Sequential(square(), changing, nn.Linear(4, 3))
    assert_right(source_of(model, normal(N_SAMPLES, 4), "1"))


def test_inputs_that_a_model_changes_in_place_stay_the_users_own():
    data = normal(N_SAMPLES, 4)
    before = data.clone()
    assert_right(source_of(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 2)), data))
    assert torch.equal(data, before)


# Weights used more than once, or from outside


def test_a_module_that_is_called_twice():
    model = Made(lambda self, x: self.layer(torch.tanh(self.layer(x))), layer=square())
    assert_right(source_of(model, normal(N_SAMPLES, 4), engine="rule"))


def test_a_module_under_two_names():
    layer = nn.Linear(4, 4)
    source = source_of(nn.Sequential(layer, nn.Tanh(), layer), normal(N_SAMPLES, 4))
    assert source.engines == {"0.weight": "rule", "0.bias": "rule"}
    assert_right(source)


def used_from_outside():
    """The layer is never called: its weight goes through `F.linear`."""

    def forward(self, x):
        return self.readout(torch.tanh(functional.linear(x, self.layer.weight)))

    return Made(forward, layer=square(), readout=nn.Linear(4, 3))


def also_used_from_outside():
    """The layer is called, and its weight is used once more beside it."""
    return Made(
        lambda self, x: functional.linear(torch.tanh(self.layer(x)), self.layer.weight),
        layer=square(),
    )


def test_a_weight_that_is_used_from_outside():
    data = normal(N_SAMPLES, 4)
    with pytest.raises(ValueError, match="layer is never called: its weight is used from outside"):
        source_of(used_from_outside(), data, "layer.weight", engine="rule")
    source = source_of(used_from_outside(), data, ["layer.weight", "readout"])
    engines = {"layer.weight": "vmap", "readout.weight": "rule", "readout.bias": "rule"}
    assert source.engines == engines
    assert_right(source)


def test_a_second_use_of_a_weight_that_is_not_seen_is_found_out():
    data = normal(N_SAMPLES, 4)
    with pytest.raises(ValueError, match="off by .* from plain autograd"):
        source_of(also_used_from_outside(), data, "layer.weight", engine="rule")
    source = source_of(also_used_from_outside(), data)
    assert source.engines == {"layer.weight": "vmap", "layer.bias": "rule"}
    assert_right(source)


def test_parameters_without_gradient_get_zeros():
    # One layer is never called, and one's output comes to nothing.
    model = Made(
        lambda self, x: (self.dropped(x), self.used(x))[1],
        never=square(),
        dropped=square(),
        used=nn.Linear(4, 3),
    )
    zeros = ("never.weight", "never.bias", "dropped.weight", "dropped.bias")
    assert_right(source_of(model, normal(N_SAMPLES, 4)), zeros=zeros)


def test_a_hook_that_changes_what_a_module_gives():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    model[0].register_forward_hook(lambda module, args, output: output.square())
    source = source_of(model, normal(N_SAMPLES, 4))
    assert source.engines["0.weight"] == "replay (0)"
    assert source.engines["2.weight"] == "rule"
    assert_right(source)


# Inputs without a sample axis first


class Experts(nn.Module):
    """Every token goes to one of two experts, all tokens of an expert side by side."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList([square(), square()])

    def forward(self, hidden):
        flat = hidden.flatten(0, 1)
        outputs = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            index = ((flat[:, 0] > 0) == bool(number)).nonzero()[:, 0]
            outputs = outputs.index_add(0, index, expert(flat[index]))
        return outputs.view_as(hidden)


def flattening():
    """A layer that sees all positions of all samples side by side."""
    return Made(lambda self, x: self.layer(x.flatten(0, 1)).tanh().view_as(x), layer=square())


@KINDS
def test_flattened_inputs_are_replayed_in_the_module_around(rows):
    data, model = normal(N_SAMPLES, 5, 4), nn.Sequential(square(), flattening(), nn.Linear(4, 3))
    with pytest.raises(ValueError, match=r"inputs of 1\.layer have no sample axis first"):
        source_of(model, data, engine="rule", rows=rows)
    source = source_of(model, data, rows=rows)
    assert source.engines["1.layer.weight"] == "replay (1)"
    assert source.engines["0.weight"] == "rule"
    assert_right(source)


@pytest.mark.parametrize("rows", ["sample", "sampled-token"])
def test_experts_that_see_some_of_the_tokens(rows):
    data = normal(N_SAMPLES, 5, 4)
    model = nn.Sequential(nn.Linear(4, 4), Experts(), nn.Linear(4, 3))
    with pytest.raises(ValueError, match=r"rule of 1\.experts\.0: the inputs of 1\.experts\.0"):
        source_of(model, data, engine="rule", rows=rows)
    # Which tokens an expert sees depends on values, which vmap cannot follow.
    with pytest.warns(UserWarning, match=r"1\.experts\.0\.weight.* made one by one"):
        source = source_of(model, data, rows=rows)
    assert source.engines["1.experts.1.bias"] == "loop"
    assert source.engines["0.weight"] == "rule"
    assert_right(source)


def test_a_branch_on_values_goes_through_the_loop_with_a_warning():
    def forward(self, inputs):
        rows = [x @ self.kernel if x.sum() > 0 else (x @ self.kernel).sin() for x in inputs]
        return torch.stack(rows)

    model = Made(forward, kernel=torch.randn(4, 3))
    with pytest.warns(UserWarning, match=r"\['kernel'\] are made one by one, .* vmap: "):
        source = source_of(model, normal(N_SAMPLES, 4))
    assert source.engines == {"kernel": "loop"}
    assert_right(source)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # who asks for the loop is not warned
        source_of(model, normal(N_SAMPLES, 4), engine={"*": "loop"})


@pytest.mark.parametrize("engine", ["auto", "jacobian", "rule", "replay", "vmap", "loop"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_rows_that_mix_are_refused_at_the_door(engine, dtype):
    mixing = Made(lambda self, x: self.layer(x) - self.layer(x).mean(0) / 2, layer=nn.Linear(4, 3))
    message = "outputs of a sample that do not depend on the other samples of its batch"
    with pytest.raises(ValueError, match=f"^model: expected {message}"):
        GradientSource(Target(mixing.to(dtype)), normal(N_SAMPLES, 4).to(dtype), engine=engine)


def key_bias():
    """Attention whose key bias adds the same to all scores of a query: the softmax does not see it."""
    return Made(
        lambda self, x: (self.q_proj(x) @ self.k_proj(x).mT).softmax(-1) @ x,
        q_proj=square(),
        k_proj=square(),
    )


def before_instance_norm():
    """A bias that the norm behind it takes away."""
    return Made(
        lambda self, x: self.second(self.norm(self.first(x.mT)).tanh()).mT,
        first=nn.Conv1d(4, 4, 1),
        norm=nn.InstanceNorm1d(4),
        second=nn.Conv1d(4, 3, 1),
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("kind", ["sample", "sampled-token", "token"])
@pytest.mark.parametrize(
    ("make", "without"), [(key_bias, "k_proj.bias"), (before_instance_norm, "first.bias")]
)
def test_a_tensor_whose_gradient_is_only_rounding_keeps_its_rule(make, without, kind, dtype):
    target = Target(make().to(dtype))
    source = GradientSource(target, normal(N_SAMPLES, 5, 4).to(dtype), rows=kind, engine=AUTO)
    assert set(source.engines.values()) == {"rule"}
    found = source.gradients(source.rows(0, source.n_rows)).dense()
    assert found[without].abs().max() <= 1e-4 * max(g.abs().max() for g in found.values())


# Padding


@pytest.mark.parametrize("lengths", [[5, 3, 4, 2, 5, 1], [5, 5, 5, 3, 1, 2]], ids=str)
@pytest.mark.parametrize("side", ["right", "left"])
def test_padded_rows_have_the_gradients_of_the_sequences_alone(side, lengths):
    # Engines are tried on the first three sequences, without any padding in one of the cases.
    model = exact("llama", attn_implementation="sdpa").double()
    ids = torch.randint(1, 11, (N_SAMPLES, 5))
    columns = torch.arange(5)
    first = [0 if side == "right" else 5 - n for n in lengths]
    mask = torch.stack([
        ((columns >= start) & (columns < start + n)).long()
        for start, n in zip(first, lengths, strict=True)
    ])
    data = {
        "input_ids": ids * mask,
        "attention_mask": mask,
        "position_ids": (mask.cumsum(1) - 1).clamp_min(0),
    }
    target = Target(model)
    source = GradientSource(
        target, data, rows="sampled-token", reference="uniform", divergence="kl"
    )
    assert set(source.engines.values()) == {"rule"}
    last = torch.tensor([start + n - 1 for start, n in zip(first, lengths, strict=True)])
    made = source.plan.run(data, last)
    e = torch.randn_like(made.outputs)
    found = made.gradients(e).flat
    for row, (start, n) in enumerate(zip(first, lengths, strict=True)):
        alone = {"input_ids": ids[row : row + 1, start : start + n]}
        plan = source.plan.run(alone, torch.tensor([n - 1]))
        torch.testing.assert_close(plan.outputs[0], made.outputs[row], rtol=1e-10, atol=1e-10)
        expected = plan.gradients(e[row : row + 1]).flat
        assert relative_error(found[row : row + 1], expected) <= 1e-9


# What is asked for


def test_engines_by_glob():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    wanted = {"0.weight": "vmap", "*.weight": "replay", "2.*": "loop", "*": "auto"}
    source = source_of(model, normal(N_SAMPLES, 4), engine=wanted)
    # The first glob that matches counts.
    assert source.engines == {
        "0.weight": "vmap",
        "0.bias": "rule",
        "2.weight": "replay (2)",
        "2.bias": "loop",
    }
    assert source.engine == "mixed"
    assert_right(source)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"*": "rul"}, "expected .*'rule'.*; got 'rul'. Did you mean 'rule'?"),
        ({"weight": "rule", "*.bas": "loop"}, r"expected globs .*; got '\*\.bas'"),
        ({"*": "Replay"}, "expected .*; got 'Replay'. Did you mean 'replay'?"),
        ({"*": "jacobian"}, r"expected .*; got 'jacobian'(?!.*Did you mean)"),
    ],
)
def test_engines_that_are_not_there(engine, message):
    with pytest.raises(ValueError, match=f"^engine: {message}"):
        source_of(nn.Linear(4, 3), normal(N_SAMPLES, 4), engine=engine)


def test_what_was_passed_over_is_told_with_its_reason():
    model = nn.Sequential(flattening(), also_used_from_outside(), used_from_outside())
    plan = choose(Target(model.double()), normal(3, 5, 4), kind="sample")
    passed = {name: list(choice.passed_over) for name, choice in plan.choices.items()}
    assert passed["0.layer.weight"] == [
        "rule of 0.layer: the inputs of 0.layer have no sample axis first (flattened or shared)",
        "replay of 0.layer: the outputs of 0.layer have no sample axis first",
    ]
    for reason in passed["1.layer.weight"]:
        assert "off by" in reason
    assert passed["1.layer.bias"] == []
    assert "2.layer is never called" in passed["2.layer.weight"][0]
    # A replay of the module around sees both uses, and of the one outside as well.
    assert plan.shown()["1.layer.weight"] == "replay (1)"
    assert plan.shown()["2.layer.weight"] == "replay (2)"
    for choice in plan.choices.values():
        assert choice.error <= 1e-12 < TOLERANCE[torch.float64]


# The model as it was found


def snapshot(model):
    named = dict(model.named_parameters())
    return {
        "hooks": [
            len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
            for m in model.modules()
        ],
        "parameters": {n: (id(p), p.requires_grad, p.grad, p._version) for n, p in named.items()},
        "modes": [m.training for m in model.modules()],
        "random": torch.get_rng_state().tolist(),
        "grad": torch.is_grad_enabled(),
        "values": {name: t.tolist() for name, t in model.state_dict().items()},
    }


def found_model():
    model = nn.Sequential(
        nn.Embedding(7, 4),
        nn.Linear(4, 4),
        used_from_outside(),
        nn.BatchNorm1d(5),
        Made(lambda self, x: x),
        nn.Linear(3, 7),
    ).double()
    model.train()
    model[3].eval()
    model[1].weight.requires_grad_(False)  # frozen, and yet a target
    model[5].bias.requires_grad_(False)
    model[1].register_forward_hook(lambda module, args, output: None)
    return model


@KINDS
def test_the_model_is_left_as_it_was_found_also_after_an_error_within(rows):
    model, ids = found_model(), torch.randint(0, 7, (N_SAMPLES, 5))
    before = snapshot(model)
    source = source_of(model, ids, rows=rows)
    assert source.engine == "mixed"
    asked = source.rows(0, source.n_rows)
    source.gradients(asked)
    assert snapshot(model) == before

    def fail(*_):
        raise KeyError("within the model's forward")

    model[4].of = fail
    for call in (
        lambda: source.gradients(asked),
        lambda: source.outputs_at(asked),
        lambda: choose(source.target, ids[:3], kind=rows),
    ):
        with pytest.raises((KeyError, ValueError), match="within the model's forward"):
            call()
    assert snapshot(model) == before
