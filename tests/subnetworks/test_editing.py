"""Moving a model along subnetworks and back, to the bit."""

import copy
from dataclasses import replace

import hypothesis
import hypothesis.strategies as st
import jaxtyping
import pytest
import torch
from torch import nn

from subscape import Target
from subscape.subnetworks.editing import Edit, displacement
from tests.conftest import Made


def model_of():
    """A matrix, a kernel, a vector, a scalar, and a matrix that is not decomposed."""
    parts = {"kernel": torch.randn(3, 2, 2), "scale": torch.ones(()), "rest": nn.Linear(3, 2)}
    return Made(None, linear=nn.Linear(4, 3), **parts)


@pytest.fixture(scope="session")
def make(untrained):
    def make(model=None, dtype=torch.float64, parameters=("!rest",)):
        model = (model or model_of()).to(dtype)
        return model, untrained(Target(model, list(parameters)))

    return make


def bits(model):
    return {
        name: p.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        for name, p in model.named_parameters(remove_duplicate=False)
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_an_edit_moves_the_parameters_and_puts_them_back_also_after_an_exception(make, dtype):
    model, made = make(dtype=dtype)
    before, old = bits(model), copy.deepcopy(model.state_dict())
    with pytest.raises(KeyError, match="inside"), made.edit(model, {3: 0.5, 1: -2.0}) as edited:
        assert edited is model
        for name, p in model.named_parameters():
            if name.startswith("rest"):
                assert torch.equal(p, old[name])
                continue
            v = made.decoder.dense()[name]
            wide = old[name].to(v.dtype) + 0.5 * v[3] - 2.0 * v[1]
            step = torch.finfo(dtype).eps
            torch.testing.assert_close(p, wide.to(dtype), rtol=step, atol=4 * step)
            assert not torch.equal(p, old[name])
        raise KeyError("inside")
    assert bits(model) == before


def test_signs_of_zero_and_tiny_numbers_come_back(make):
    """w + v − v would lose them; a copy does not."""
    model, made = make(dtype=torch.float32)
    with torch.no_grad():
        model.linear.weight.view(-1)[:3] = torch.tensor([-0.0, 1e-40, 3e38])
    made = replace(made, target=Target(model, ["!rest"]).fingerprint())
    before = bits(model)
    with made.edit(model, {0: 10.0}):
        pass
    assert bits(model) == before


def test_apply_and_undo_by_hand(make):
    model, made = make()
    before = bits(model)
    edit = made.edit(model, {0: 1.0})
    assert bits(model) == before  # not yet applied
    assert not edit.applied
    assert edit.apply() is edit
    moved = bits(model)
    edit.apply()  # once is enough
    assert (bits(model), edit.applied) == (moved, True)
    edit.undo()
    edit.undo()
    assert (bits(model), edit.applied) == (before, False)
    with edit:  # may be used again
        assert bits(model) == moved
    assert bits(model) == before


def test_nothing_else_of_the_model_changes(make):
    model, made = make()
    model.linear.weight.requires_grad_(False)
    model.kernel.grad = torch.ones_like(model.kernel)
    model.rest.eval()
    parameters = dict(model.named_parameters())
    modes = [m.training for m in model.modules()]
    with made.edit(model, {0: 1.0}):
        assert all(p is parameters[n] for n, p in model.named_parameters())
        assert [m.training for m in model.modules()] == modes
        assert not model.linear.weight.requires_grad
        assert model.kernel.requires_grad
    assert all(p is parameters[n] for n, p in model.named_parameters())
    assert torch.equal(model.kernel.grad, torch.ones_like(model.kernel))
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == [
        n != "linear.weight" for n, _ in model.named_parameters()
    ]


@pytest.mark.parametrize(
    ("tensors", "moved"),
    [
        ("linear.*", {"linear.weight", "linear.bias"}),
        (["*", "!linear"], {"kernel", "scale"}),
        ("re:s.*", {"scale"}),
    ],
)
def test_restriction_to_some_tensors(make, tensors, moved):
    model, made = make()
    old = copy.deepcopy(model.state_dict())
    with made.edit(model, {2: 0.7}, tensors=tensors):
        changed = {n for n, p in model.named_parameters() if not torch.equal(p, old[n])}
        assert changed == moved
        for name in moved:
            expected = old[name] + 0.7 * made[2][name]
            torch.testing.assert_close(model.get_parameter(name), expected)
    assert all(torch.equal(p, old[n]) for n, p in model.named_parameters())


@hypothesis.given(
    st.dictionaries(st.integers(0, 4), st.floats(-3, 3), max_size=5), st.floats(-2, 2)
)
def test_deltas_add_up(make, deltas, factor):
    _, made = make()
    found = displacement(made.decoder, deltas)
    v = made.decoder.dense()
    for name in made.layout.names:
        expected = sum((d * v[name][k] for k, d in deltas.items()), torch.zeros_like(v[name][0]))
        torch.testing.assert_close(found[name], expected, rtol=1e-10, atol=1e-12)
    scaled = displacement(made.decoder, {k: factor * d for k, d in deltas.items()})
    for name in made.layout.names:
        torch.testing.assert_close(scaled[name], factor * found[name], rtol=1e-10, atol=1e-12)


def test_a_move_is_as_long_as_its_delta(make):
    _, made = make()
    parts = displacement(made.decoder, {2: -0.3}).values()
    assert torch.stack([p.norm() for p in parts]).norm().item() == pytest.approx(0.3)


# Several edits of one model


def test_edits_within_one_another_add_up_and_end_in_reverse_order(make):
    model, made = make()
    before = bits(model)
    first, second = made.edit(model, {0: 1.0}), made.edit(model, {0: 0.5, 3: 2.0})
    both = made.edited(model, {0: 1.5, 3: 2.0})
    with first:
        between = bits(model)
        with second:
            for p, q in zip(model.parameters(), both.parameters(), strict=True):
                torch.testing.assert_close(p, q)
        assert bits(model) == between
    assert bits(model) == before


def test_an_edit_made_of_an_edited_model_is_refused_and_says_what_to_do(make):
    model, made = make()
    with (
        made.edit(model, {0: 1.0}),
        pytest.raises(ValueError, match="undo edits of it: one edit takes several deltas"),
    ):
        made.edit(model, {3: 2.0})
    made.edit(model, {3: 2.0})


# Tied weights


def test_a_tied_weight_is_moved_once_and_stays_tied(make):
    tied = Made(None, first=nn.Linear(4, 4), second=nn.Linear(4, 4))
    tied.second.weight = tied.first.weight
    model, made = make(tied, parameters=["*weight"])
    assert made.layout.names == ["first.weight"]
    before, old = bits(model), model.first.weight.detach().clone()
    with made.edit(model, {1: 0.5}):
        assert model.first.weight is model.second.weight
        torch.testing.assert_close(model.second.weight, old + 0.5 * made[1]["first.weight"])
    assert bits(model) == before
    copied = made.edited(model, {1: 0.5})
    assert copied.first.weight is copied.second.weight
    torch.testing.assert_close(copied.second.weight, old + 0.5 * made[1]["first.weight"])


# Copies


def test_a_copy_leaves_the_model_alone(make):
    model, made = make()
    before = bits(model)
    copied = made.edited(model, {3: 0.5}, tensors="kernel")
    assert bits(model) == before
    torch.testing.assert_close(copied.kernel, model.kernel + 0.5 * made[3]["kernel"])
    assert torch.equal(copied.linear.weight, model.linear.weight)
    with torch.no_grad():
        copied.rest.weight.add_(1)
    assert bits(model) == before


# Wrong arguments


@pytest.mark.parametrize(
    ("deltas", "tensors", "error", "said"),
    [
        *(({k: 1.0}, "*", IndexError, "expected subnetworks from 0 to 4; got") for k in (5, -1)),
        *(({k: 1.0}, "*", IndexError, "expected subnetworks from 0 to 4") for k in (1.0, "1")),
        ({1: float("nan")}, "*", ValueError, "deltas: expected a finite δ for subnetwork 1"),
        ({1: float("inf")}, "*", ValueError, "deltas: expected a finite δ for subnetwork 1"),
        ({1: 1.0}, "liner", ValueError, "'liner'.*Did you mean"),
    ],
)
def test_edits_that_are_none(make, monkeypatch, deltas, tensors, error, said):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    model, made = make()
    with pytest.raises(error, match=said):
        made.edit(model, deltas, tensors=tensors)


def test_a_move_out_of_the_range_of_the_type_changes_nothing(make):
    model, made = make(dtype=torch.float32)
    before = bits(model)
    edit = made.edit(model, {0: 1e39})
    with pytest.raises(ValueError, match="within the range of torch.float32"):
        edit.apply()
    assert bits(model) == before
    assert not edit.applied


def test_another_model_is_refused(make):
    _, made = make()
    other, _ = make(nn.Sequential(nn.Linear(4, 3)), parameters=["*"])
    with pytest.raises(ValueError, match="parameters: expected patterns over the 2 names"):
        made.edit(other, {0: 1.0})
    same_shapes, _ = make()
    with torch.no_grad():
        same_shapes.scale.add_(1e-12)
    for method in (made.edit, made.edited):
        with pytest.raises(ValueError, match="same shapes, other values"):
            method(same_shapes, {0: 1.0})
    half = make()[0].half()
    with pytest.raises(ValueError, match="type float64; got shape .* and type float16"):
        made.edit(half, {0: 1.0})


def test_a_plain_change(make):
    model, _ = make()
    old = model.scale.detach().clone()
    with Edit(model, {"scale": torch.tensor(2.0)}):
        assert model.scale.item() == old.item() + 2
    assert torch.equal(model.scale, old)
