from types import SimpleNamespace

import pytest
import torch
from torch import nn

from subscape import Target
from subscape import targets as module
from subscape.targets import default_outputs
from tests.conftest import Made


def network():
    return nn.ModuleDict({
        "embed": nn.Linear(3, 4),
        "blocks": nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4, bias=False)]),
    })


NAMES = ["embed.weight", "embed.bias", "blocks.0.weight", "blocks.0.bias", "blocks.1.weight"]


# Selection


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["*"], NAMES),
        (["*.weight"], ["embed.weight", "blocks.0.weight", "blocks.1.weight"]),
        (["embed"], ["embed.weight", "embed.bias"]),
        (["blocks"], ["blocks.0.weight", "blocks.0.bias", "blocks.1.weight"]),
        (["blocks.?.weight"], ["blocks.0.weight", "blocks.1.weight"]),
        (["blocks.1.weight", "embed.bias"], ["embed.bias", "blocks.1.weight"]),
        (["*", "!*.bias"], ["embed.weight", "blocks.0.weight", "blocks.1.weight"]),
        (["!*.bias"], ["embed.weight", "blocks.0.weight", "blocks.1.weight"]),
        (["!blocks", "embed.weight", "blocks.0.bias"], ["embed.weight"]),
        ("embed.*", ["embed.weight", "embed.bias"]),
        # Brackets are sets of letters.
        (["blocks.[01].weight"], ["blocks.0.weight", "blocks.1.weight"]),
        (["blocks.[!0].weight"], ["blocks.1.weight"]),
        ([r"re:blocks\.\d+\.weight"], ["blocks.0.weight", "blocks.1.weight"]),
        ([r"re:blocks"], None),  # a regular expression matches the whole name, or nothing
        (["embed.weigh"], None),
        (["Embed"], None),
    ],
)
def test_patterns_choose_in_model_order(patterns, expected):
    if expected is None:
        with pytest.raises(ValueError, match="matches none"):
            Target(network(), patterns)
    else:
        assert Target(network(), patterns).names == expected


def test_a_tied_parameter_counts_once_by_its_first_name_and_is_reached_at_every_use():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2, bias=False)
    second.weight = first.weight
    model = Made(lambda self, x: self.second(self.first(x)), first=first, second=second)
    assert Target(model).names == ["first.weight", "first.bias"]
    assert Target(model).n_parameters == 6
    target = Target(model, "*.weight")
    assert target.names == ["first.weight"]
    x, other = torch.randn(4, 2), torch.randn(2, 2)
    with torch.no_grad():
        expected = (x @ other.mT + first.bias) @ other.mT
        found = target.outputs(x, {"first.weight": other})
    torch.testing.assert_close(found, expected)


# Outputs


def test_outputs_at_other_values_leave_the_rest_and_the_model_alone():
    model, x = nn.Linear(3, 2), torch.randn(4, 3)
    assert torch.equal(Target(model).outputs(x), model(x))
    before, weight = model.weight.detach().clone(), torch.zeros(2, 3, requires_grad=True)
    found = Target(model).outputs(x, {"weight": weight})
    torch.testing.assert_close(found, model.bias.expand(4, 2))
    # They are differentiable in the values given.
    found.sum().backward()
    torch.testing.assert_close(weight.grad, x.sum(0).expand(2, 3))
    assert model.weight.grad is None
    assert torch.equal(model.weight, before)


LOGITS = torch.randn(2, 3)


@pytest.mark.parametrize(
    "given",
    [
        LOGITS,
        SimpleNamespace(logits=LOGITS),
        {"loss": torch.zeros(()), "logits": LOGITS},
        (LOGITS, torch.zeros(5)),
    ],
    ids=["tensor", "attribute", "mapping", "tuple"],
)
def test_default_outputs_find_the_tensor(given):
    assert default_outputs(lambda batch: given, torch.zeros(2)) is LOGITS


def test_default_outputs_pass_mappings_by_keyword():
    def model(*, a, b):
        return a - b

    found = default_outputs(model, {"b": torch.ones(2), "a": torch.zeros(2)})
    assert found.tolist() == [-1.0, -1.0]


def test_an_outputs_function_sees_a_model_with_other_values_and_the_models_attributes():
    model = nn.Linear(3, 2)
    seen = []

    def outputs(called, batch):
        seen.append(called.out_features)
        return called(batch)[:, :1]

    target = Target(model, outputs=outputs)
    found = target.outputs(torch.ones(1, 3), {"weight": torch.ones(2, 3), "bias": torch.ones(2)})
    assert found.tolist() == [[4.0]]
    assert seen == [2]


# What a target says of itself


def test_sizes_and_shapes():
    target = Target(network(), "blocks.0")
    assert target.shapes == {"blocks.0.weight": (4, 4), "blocks.0.bias": (4,)}
    assert target.n_parameters == 20
    assert target.like.dtype == torch.float32
    assert not target.like.requires_grad
    # 12 + 4 of the first, 16 + 4 and 16 of the blocks: 52, of which 20 are 38.5 %.
    text = target.summary()
    assert "2 tensors of ModuleDict, 20 of 52 parameters (38.5%)" in text
    assert "blocks.0.bias" in text
    assert "[4, 4]" in text


@pytest.fixture
def hashed(monkeypatch):
    """Grows with every tensor whose values are hashed."""
    seen, original = [], module.raw_bytes

    def spy(values):
        seen.append(str(list(values.shape)))
        return original(values)

    monkeypatch.setattr(module, "raw_bytes", spy)
    return seen


@torch.no_grad()
def one_bit(model):
    model.weight[1, 2] = torch.nextafter(model.weight[1, 2], torch.tensor(9.0))


CHANGES = {
    "one bit": one_bit,
    "through data": lambda model: model.weight.data[1, 2].add_(1),
    "signs through data": lambda model: model.weight.data.neg_(),
    "loaded": lambda m: m.load_state_dict({name: 2 * p for name, p in m.state_dict().items()}),
    "other data": lambda m: setattr(m.weight, "data", m.weight.data.clone().neg()),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_fingerprint_is_made_once_for_the_same_values(change, hashed):
    model = nn.Linear(3, 2)
    target = Target(model)
    before = target.fingerprint()
    assert target.fingerprint() == before
    target.fingerprint()["tensors"].clear()  # a copy of the caller's own
    assert target.fingerprint() == before == Target(model).fingerprint()
    assert len(hashed) == 2 * 2  # two tensors, for each of two targets
    bias = Target(model, "bias").fingerprint()
    seen = len(hashed)
    change(model)
    after = target.fingerprint()
    assert len(hashed) == seen + 2
    if change is not CHANGES["loaded"]:  # only what is chosen is looked at
        assert Target(model, "bias").fingerprint() == bias
    assert after == Target(model).fingerprint()
    assert after["sha256"] != before["sha256"]
    assert after["tensors"] == before["tensors"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_fingerprint_takes_every_dtype_and_layout(dtype):
    model = nn.Linear(3, 2).to(dtype)
    model.weight = nn.Parameter(torch.randn(3, 2).to(dtype).mT)  # not contiguous
    model.scale = nn.Parameter(torch.ones((), dtype=dtype))
    found = Target(model).fingerprint()["tensors"]
    assert found[0] == {"name": "weight", "shape": [2, 3], "dtype": str(dtype)[6:]}
    assert found[-1]["shape"] == []


# Modules that are refused; the message is checked in test_bad_input


@pytest.mark.parametrize(
    "module", [nn.Dropout(0.1), nn.Dropout2d(0.5), nn.AlphaDropout(0.1), nn.BatchNorm1d(3)]
)
def test_train_mode_is_refused_for_modules_that_it_changes(module):
    model = nn.Sequential(nn.Linear(3, 3), module)
    with pytest.raises(ValueError, match="eval mode"):
        Target(model)
    Target(model.eval())
    harmless = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Dropout(0.0)).train()
    assert Target(harmless, "0").n_parameters == 12


def test_a_glob_or_module_that_matches_nothing_gets_a_near_miss():
    model = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])})
    for pattern in ("layer.1*", "layer.1.*", "!layer.1", "Layers.1"):
        with pytest.raises(ValueError, match=r"matches none\. Did you mean 'layers\.1'\?"):
            Target(model, pattern)


def test_it_is_short_to_look_at():
    target = Target(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)), "0.*")
    assert repr(target) == "Target(Sequential, 2 tensors with 8 parameters)"
    assert target._repr_html_() == f"<pre>{target.summary()}</pre>"
