"""What `subscape check` compares: rows with the loop's, alone with batched, padded with unpadded."""

import pytest
import torch
from torch import nn

from subscape import Target
from subscape.gradients import DenseGradient, register_rule
from subscape.gradients import plan as plan_module
from subscape.gradients.check import CheckResult, TensorCheck, check
from subscape.gradients.rules import registry
from tests.conftest import Made, tiny

N_SAMPLES, LENGTH, VOCABULARY = 6, 5, 11
OF_TOKENS = {"loop", "alone", "right padding", "left padding"}


def token_ids():
    return torch.randint(1, VOCABULARY, (N_SAMPLES, LENGTH))


def convolution():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 3))
    return Target(model.double().eval())


def images(n=N_SAMPLES):
    return torch.randn(n, 2, 5, 5, dtype=torch.float64)


def compared(result):
    """The comparisons that were made, the same for all tensors."""
    (names,) = {tuple(tensor.errors) for tensor in result.tensors}
    return set(names)


def wrong(result):
    """Tensors and comparisons that are off by more than rounding."""
    return {
        (tensor.name, comparison)
        for tensor in result.tensors
        for comparison, error in tensor.errors.items()
        if not error <= result.tolerance
    }


def notes_on_padding(result):
    return [note for note in result.notes if "padding" in note]


# Models that are right


@pytest.mark.parametrize("divergence", ["kl", "mse"])
def test_a_llama_is_right_alone_and_padded_on_either_side(divergence):
    target = Target(tiny("llama"))
    result = check(target, {"input_ids": token_ids()}, token_rows=True, divergence=divergence)
    assert result.ok
    assert [tensor.name for tensor in result.tensors] == target.names
    assert compared(result) == OF_TOKENS
    assert notes_on_padding(result) == []
    # Rounding in float32, and not the comparison of a gradient with itself.
    for comparison in OF_TOKENS - {"alone"}:
        assert 0 < max(tensor.errors[comparison] for tensor in result.tensors) < 1e-4
    assert result.tolerance == 1e-3


def test_a_mask_of_ones_own_is_padded_as_well():
    mask = torch.ones(N_SAMPLES, LENGTH, dtype=torch.long)
    mask[2:4, :2] = 0
    data = {"input_ids": token_ids(), "attention_mask": mask}
    result = check(Target(tiny("llama")), data, token_rows=True)
    assert result.ok
    assert compared(result) == OF_TOKENS


def test_absolute_positions_do_not_go_with_padding_on_the_left():
    target = Target(tiny("gpt2"), "transformer.h")
    result = check(target, {"input_ids": token_ids()}, token_rows=True)
    assert result.ok
    assert compared(result) == OF_TOKENS - {"left padding"}
    (note,) = notes_on_padding(result)
    assert note.startswith("left padding: makes the model's own outputs differ")


def test_samples_are_not_padded():
    result = check(convolution(), images())
    assert result.ok
    assert compared(result) == {"loop", "alone"}
    assert notes_on_padding(result) == [
        f"{side} padding: not tried: rows are not tokens of `input_ids`"
        for side in ("right", "left")
    ]


def test_a_model_that_does_not_take_padding_is_not_padded():
    # A model of exactly five positions, which takes no mask.
    short = Made(
        lambda self, input_ids: self.head(torch.tanh(self.table(input_ids) + self.place)),
        table=nn.Embedding(VOCABULARY, 4),
        place=torch.randn(LENGTH, 4),
        head=nn.Linear(4, 3),
    )
    result = check(Target(short, "head"), {"input_ids": token_ids()}, token_rows=True)
    assert result.ok
    assert compared(result) == {"loop", "alone"}
    assert all("not tried: the model does not take it" in n for n in notes_on_padding(result))
    assert len(notes_on_padding(result)) == 2


@pytest.mark.parametrize(("given", "looked_at"), [(20, 4), (3, 3)])
def test_only_some_rows_are_looked_at(given, looked_at):
    target = convolution()
    result = check(target, images(given), n_rows=4)
    assert result.n_rows == looked_at
    assert f"{looked_at} rows, largest relative error of a row; right" in str(result)


def test_engines_and_what_they_were_taken_for_are_told():
    result = check(convolution(), images(), engine={"0.*": "vmap", "*": "auto"})
    assert [tensor.engine for tensor in result.tensors] == ["vmap"] * 2 + ["rule"] * 4

    data = torch.randn(N_SAMPLES, 4, dtype=torch.float64)
    root = Made(lambda self, x: x @ self.kernel, kernel=torch.randn(4, 3, dtype=torch.float64))
    result = check(Target(nn.Sequential(root)), data)
    assert result.tensors[0].engine == "replay (0)"
    assert "0.kernel: replay, because not rule of 0: no rule for Made" in result.notes


# Models that are wrong


@pytest.fixture
def anything_passes(monkeypatch):
    """Wrong engines get past the trial, and wrong rules are gone after the test."""
    loose = dict.fromkeys(plan_module.TOLERANCE, 1e9)
    monkeypatch.setattr(plan_module, "TOLERANCE", loose)
    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))


class Scale(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(size) + 1)

    def forward(self, inputs):
        return inputs * self.scale


@pytest.mark.usefixtures("anything_passes")
def test_a_wrong_rule_is_marked_and_rows_that_mix_are_right_only_alone():
    @register_rule(Scale)
    def rule(module, inputs, e):
        return {"scale": DenseGradient(factor(inputs) * inputs * e)}

    model = nn.Sequential(nn.Linear(4, 4), Scale(4)).double()
    for factor, off in ((lambda x: 2, {"loop", "alone"}), (len, {"loop"})):
        result = check(Target(model), torch.randn(N_SAMPLES, 4, dtype=torch.float64))
        assert not result.ok
        assert wrong(result) == {("1.scale", name) for name in off}
        assert result.tensors[2].errors["loop"] == pytest.approx(factor(range(N_SAMPLES)) - 1)
        *lines, verdict = str(result).splitlines()[:5]
        assert [line.count("!") for line in lines] == [0, 0, 0, len(off)]
        assert "WRONG where marked with !" in verdict


def summing():
    """Adds up what has been seen; padding counts for nothing."""

    def forward(self, input_ids, attention_mask=None):
        hidden = self.scale(self.table(input_ids))
        if attention_mask is not None:
            hidden = hidden * attention_mask[..., None]
        return self.head(torch.tanh(hidden.cumsum(1)))

    return Made(forward, table=nn.Embedding(VOCABULARY, 4), scale=Scale(4), head=nn.Linear(4, 3))


@pytest.mark.parametrize("sound", [True, False])
@pytest.mark.usefixtures("anything_passes")
def test_a_rule_that_counts_padding_is_right_only_without(sound):
    @register_rule(Scale)
    def rule(module, inputs, e):
        by_length = 1.0 if sound else LENGTH / inputs.shape[1]
        return {"scale": DenseGradient(by_length * (inputs * e).sum(1))}

    result = check(Target(summing().double()), {"input_ids": token_ids()}, token_rows=True)
    assert compared(result) == OF_TOKENS
    assert result.ok is sound
    padded = {("scale.scale", "right padding"), ("scale.scale", "left padding")}
    assert wrong(result) == (set() if sound else padded)


# The result


@pytest.mark.parametrize(("error", "ok"), [(1e-3, True), (1.1e-3, False), (float("nan"), False)])
def test_what_is_beyond_the_tolerance_or_no_number_is_wrong(error, ok):
    tensors = [TensorCheck("a", "rule", {"loop": 0.0}), TensorCheck("b", "vmap", {"loop": error})]
    result = CheckResult(tensors, tolerance=1e-3, n_rows=2, notes=["a note"])
    assert result.ok is ok
    assert ("!" in str(result)) is not ok
    assert str(result).splitlines()[0].split() == ["tensor", "engine", "loop"]
    assert str(result).splitlines()[-1] == "a note"


@pytest.mark.parametrize("n_rows", [-3, 0, 1])
def test_fewer_than_two_rows_would_show_nothing(n_rows):
    # The reference of an only row would be its own output.
    with pytest.raises(ValueError, match="n_rows: expected at least 2 rows"):
        check(Target(torch.nn.Linear(4, 3)), torch.randn(6, 4), n_rows=n_rows)


def test_token_rows_of_a_model_without_positions_are_refused():
    with pytest.raises(ValueError, match="rows: expected outputs"):
        check(Target(torch.nn.Linear(4, 3)), torch.randn(6, 4), token_rows=True)


def test_an_engine_that_refuses_padding_is_noted():
    # Positions of a GPT-2 are replayed with the whole transformer, which vmap cannot follow with a mask.
    target = Target(tiny("gpt2", n_layer=1))
    result = check(target, {"input_ids": token_ids()}, token_rows=True)
    assert result.ok
    assert any("right padding: an engine refuses" in note for note in result.notes)
