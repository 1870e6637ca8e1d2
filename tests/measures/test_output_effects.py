"""∂f/∂δ against central finite differences in float64, for every way of differentiating."""

import warnings

import pytest
import torch
from torch import nn

from subscape import Target
from subscape.measures import RowSet, top_outputs
from subscape.measures.output_effects import (
    derivative,
    output_effects,
    output_effects_by_difference,
)

FALLS_BACK = "forward mode is not there for this model as loaded"


@pytest.fixture(autouse=True)
def softmax_of_its_input(monkeypatch):
    """Eager attention of Llama takes its softmax in float32 whatever its input is; 1e-6 needs float64."""
    monkeypatch.setattr(nn.functional, "softmax", lambda x, dim, dtype=None: torch.softmax(x, dim))


def rows_of(kind):
    samples = torch.tensor([3, 0, 5, 3])
    position = torch.tensor([1, 4, 2, 0])
    return RowSet(samples, None if kind in ("mlp", "convolution") else position)


def assert_right(target, data, rows, direction, step=1e-4):
    """Richardson's combination of two steps, so that the oracle itself is better than 1e-6."""
    found = output_effects(target, data, rows, direction)
    wide, narrow = (
        output_effects_by_difference(target, data, rows, direction, s) for s in (2 * step, step)
    )
    expected = (4 * narrow - wide) / 3
    assert not found.requires_grad
    assert expected.norm() > 1e-3
    assert (found - expected).norm() <= 1e-6 * expected.norm()
    # Row by row too, so that no small row hides behind a large one.
    error, size = ((x).flatten(1).norm(dim=1) for x in (found - expected, expected))
    assert (error <= 1e-6 * size.clamp_min(1e-3 * size.max())).all()


@pytest.mark.parametrize("kind", ["mlp", "convolution", "tokens", "llama", "gpt2"])
def test_forward_mode(small, kind):
    attends = kind in ("llama", "gpt2")
    made = small(kind, attention="eager") if attends else small(kind)
    for data in (made.data, with_padding(made.data)) if attends else (made.data,):
        for k in range(2):
            assert_right(made.target, data, rows_of(kind), made.decomposition[k].dense())


def with_padding(data):
    """The first samples begin with padding; the positions that the rows ask for are real."""
    mask = torch.ones_like(data["input_ids"])
    mask[0, :3] = 0
    mask[5, :1] = 0
    return {**data, "attention_mask": mask}


def test_the_fall_back_is_told_once(unchecked):  # a check stands between it and its caller
    attention = torch.nn.functional.scaled_dot_product_attention
    x = torch.randn(1, 2, 4, 8)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for _ in range(3):
            derivative(lambda q: attention(q, q, q), (x,), (x,))
    assert len([w for w in told if FALLS_BACK in str(w.message)]) == 1


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("masked", [False, True])
def test_fused_attention_falls_back_by_itself_and_says_so(small, kind, masked):
    made = small(kind, attention="sdpa")
    assert made.target.model.config._attn_implementation == "sdpa"
    data = with_padding(made.data) if masked else made.data
    direction = made.decomposition[0].dense()
    with pytest.warns(UserWarning, match=f"{FALLS_BACK}.*explicit softmax attention"):
        assert_right(made.target, data, rows_of(kind), direction)
    # Not only right: the same as of the model loaded with eager attention.
    eager = small(kind, attention="eager")
    with pytest.warns(UserWarning, match=FALLS_BACK):
        found = output_effects(made.target, data, rows_of(kind), direction)
    torch.testing.assert_close(
        found, output_effects(eager.target, data, rows_of(kind), direction), rtol=1e-9, atol=1e-12
    )


def test_a_tied_parameter_counts_with_all_its_uses(small):
    made = small("llama", attention="eager", tied=True, parameters=["*embed_tokens*", "lm_head*"])
    assert made.target.names == ["model.embed_tokens.weight"]
    assert_right(made.target, made.data, rows_of("llama"), made.decomposition[0].dense())


class Cube(torch.autograd.Function):
    """Has a backward pass that can be differentiated, and no forward-mode rule."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 3 * x.square() * grad


class Once(Cube):
    """Cannot be differentiated twice."""

    backward = staticmethod(torch.autograd.function.once_differentiable(Cube.backward))


class Custom(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)
        self.unused = nn.Parameter(torch.ones(2))
        self.function = function

    def forward(self, x):
        return self.second(self.function.apply(self.first(x)))


def custom(function):
    model = Custom(function).double()
    direction = {n: torch.randn_like(p) for n, p in model.named_parameters()}
    return Target(model), torch.randn(7, 4, dtype=torch.float64), direction


@pytest.mark.parametrize("enabled", [True, False])
def test_two_reverse_passes_where_there_is_no_forward_rule(enabled):
    target, data, direction = custom(Cube)
    with (
        torch.set_grad_enabled(enabled),
        pytest.warns(UserWarning, match=f"{FALLS_BACK}.*two reverse passes"),
    ):
        assert_right(target, data, rows_of("mlp"), direction)
    target, data, direction = custom(Once)
    with pytest.warns(UserWarning, match=f"{FALLS_BACK}.*central differences"):
        assert_right(target, data, rows_of("mlp"), direction)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory while differentiating"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("the model's own"),
    ],
)
def test_what_is_no_lack_of_a_rule_is_not_tried_again(error):
    calls = []

    def fail(x):
        calls.append(1)
        raise error

    with pytest.raises(type(error), match=str(error)):
        derivative(fail, (torch.ones(2),), (torch.ones(2),))
    assert len(calls) == 1


def test_the_rows_of_a_pass_do_not_matter(small):
    made = small("mlp")
    rows, direction = RowSet(torch.arange(9)), made.decomposition[1].dense()
    whole = output_effects(made.target, made.data, rows, direction)
    parts = output_effects(made.target, made.data, rows, direction, micro_batch_size=2)
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-14)
    # ∂f/∂b of the last bias alone is the direction itself, at every row.
    v = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    found = output_effects(made.target, made.data, rows, {"2.bias": v})
    torch.testing.assert_close(found, v.expand(9, 3))


def test_the_model_stays_as_it_is_and_no_gradient_mode_does_not_matter(small):
    made = small("llama")
    direction = made.decomposition[0].dense()
    before = {name: p.detach().clone() for name, p in made.target.model.named_parameters()}
    with pytest.warns(UserWarning, match=FALLS_BACK):
        expected = output_effects(made.target, made.data, rows_of("llama"), direction)
    for name, p in made.target.model.named_parameters():
        assert torch.equal(p, before[name])
        assert p.grad is None
        assert p.requires_grad
    with torch.no_grad(), pytest.warns(UserWarning, match=FALLS_BACK):
        found = output_effects(made.target, made.data, rows_of("llama"), direction)
    torch.testing.assert_close(found, expected)


def test_derivative_by_hand():
    """f(a, b) = (a², a b) at (3, 2) along (1, 10): (2·3·1, 1·2 + 3·10)."""
    at, along = ((torch.tensor(a), torch.tensor(b)) for a, b in ((3.0, 2.0), (1.0, 10.0)))
    assert derivative(lambda a, b: torch.stack([a * a, a * b]), at, along).tolist() == [6, 32]


def test_top_outputs_by_hand():
    """Means over the two rows: 1, −3, 0, 2."""
    effects = torch.tensor([[0.0, -2.0, 1.0, 5.0], [2.0, -4.0, -1.0, -1.0]])
    top = top_outputs(effects, 3)
    assert top.up == ((3, 2), (0, 1))  # an output that stays is not increased
    assert top.down == ((1, -3),)
    assert (top.up[0].output, top.up[0].effect) == (3, 2)
    assert top_outputs(effects, 1).up == ((3, 2),)


def test_of_logits_the_change_of_probabilities_counts():
    """p = (1/2, 3/8, 1/8, e⁻³⁰): Δ log p = e − Σ p e, whatever is added to all; the last is out of sight.

    e = (3, −1, 1, 90): Σ p e = 10/8, Δ log p = (14, −18, −2)/8, Δp = (56, −54, −2)/64.
    """
    logits = torch.tensor([[0.5, 0.375, 0.125]], dtype=torch.float64).log()
    logits = torch.cat([logits, torch.tensor([[-30.0]])], 1)
    effects = torch.tensor([[3.0, -1.0, 1.0, 90.0]], dtype=torch.float64)
    for shift in (0.0, 7.0):
        top = top_outputs(effects + shift, 5, logits=logits)
        assert [pair.output for pair in top.up] == [0]
        assert [pair.output for pair in top.down] == [1, 2]
        expected = [14 / 8, -18 / 8, -2 / 8]
        assert [v for _, v in top.up + top.down] == pytest.approx(expected, rel=1e-5)
    # Along +δ the mean p of two rows changes by 1/4·(1 − 0)/2 and stays 1/2: ∂ log p̄ is 1/4.
    two = top_outputs(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), 1, logits=torch.zeros(2, 2))
    assert (two.up, two.down) == (((0, 0.25),), ((1, -0.25),))


def test_outputs_of_no_probability_do_not_tie():
    """Of 40 outputs 37 have p ≈ 0 and equal effects: less the plain mean of all, they led the list in a tie."""
    logits, effects = torch.full((3, 40), -40.0), torch.zeros(3, 40)
    logits[:, :3] = torch.tensor([0.0, -1.0, -2.0])
    effects[:, :3] = torch.tensor([5.0, 6.0, 6.5])
    top = top_outputs(effects, 10, logits=logits)
    assert [pair.output for pair in top.up] == [1, 2]
    assert [pair.output for pair in top.down] == [0]
