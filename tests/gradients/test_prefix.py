"""Activations in front of the chosen parameters, kept: the same numbers, and fewer modules run."""

import pytest
import torch
from torch import nn

from subscape import GradientSource, Target
from subscape.gradients.prefix import find_prefix
from tests.conftest import Made, tiny
from tests.gradients.conftest import whole

ROOM = 2**30
N = 12


def mlp_parts(**parts):
    return {
        "first": nn.Linear(4, 16),
        "second": nn.Linear(16, 16),
        "last": nn.Linear(16, 3),
    } | parts


def chain(**options):
    return Made(
        lambda self, x: self.last(torch.tanh(self.second(torch.tanh(self.first(x))))),
        **mlp_parts(**options),
    )


def reached_over():
    """What the first layer gives is also used behind the chosen one, and its input too."""

    def forward(self, x):
        first = self.first(x)
        return self.last(self.second(torch.tanh(first)) + first) + x[:, :3]

    return Made(forward, **mlp_parts())


def in_place():
    """The first layer's output is changed in place by a module that is skipped as well."""

    def forward(self, x):
        first = self.first(x)
        self.act(first)
        return self.last(self.second(first) + first)

    return Made(forward, **mlp_parts(act=nn.ReLU(inplace=True)))


def shared():
    """The same module before and behind the chosen one, and within another one that is skipped."""
    act = nn.Tanh()

    def forward(self, x):
        return self.last(self.act(self.second(self.act(self.inner(self.act(x))))))

    inner = nn.Sequential(nn.Linear(4, 16), act)
    return Made(forward, inner=inner, act=act, second=nn.Linear(16, 16), last=nn.Linear(16, 3))


def source_of(model, data, parameters, **options):
    given = {"reference": "another-row"} | options
    return GradientSource(Target(model, parameters), data, engine="rule", **given)


def runs_of(module):
    """Counts calls of a module."""
    runs = []
    own = module.forward
    module.forward = lambda *args, **kwargs: runs.append(1) or own(*args, **kwargs)
    return runs


@pytest.mark.parametrize("make", [chain, reached_over, shared])
def test_gradients_are_those_of_the_whole_forward_pass_and_the_modules_in_front_do_not_run(make):
    torch.manual_seed(0)
    model, data = make().double(), torch.randn(N, 4).double()
    source = source_of(model, data, "second")
    expected = whole(source)
    outputs = source.outputs_at(source.rows(0, N))
    source.keep_prefix(ROOM)
    assert source.kept is not None
    runs = runs_of(model.inner[0] if make is shared else model.first)
    torch.testing.assert_close(whole(source), expected, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(source.outputs_at(source.rows(0, N)), outputs, rtol=1e-10, atol=0)
    assert not runs


def test_only_what_is_looked_at_is_kept():
    torch.manual_seed(0)
    layers = [nn.Linear(8, 8) for _ in range(5)]
    source = source_of(nn.Sequential(*layers), torch.randn(N, 8), "3")
    source.keep_prefix(ROOM)
    # Layers 0 and 1 are seen by layers that are skipped only: 12 samples of the 8 numbers of layer 2.
    assert source.kept.bytes == N * 8 * 4


def test_a_model_whose_skipped_modules_change_what_is_kept_runs_whole():
    torch.manual_seed(0)
    source = source_of(in_place(), torch.randn(N, 4), "second")
    source.keep_prefix(ROOM)
    assert source.kept is None


def test_a_model_that_takes_another_way_later_runs_whole_from_there_on():
    torch.manual_seed(0)

    def forward(self, x):
        first = self.first(x)
        hidden = self.between(first)
        # Only samples that no one looked at when the prefix was looked for go this way.
        extra = first if bool((x[:, 0] > 5).any()) else 0.0
        return self.last(self.second(hidden)) + (0 if isinstance(extra, float) else extra[:, :3])

    model = Made(forward, **mlp_parts(between=nn.Linear(16, 16)))
    data = torch.randn(N, 4).clamp(max=2)
    source = source_of(model, data, "second")
    source.keep_prefix(ROOM)
    assert source.kept is not None
    source.data[-1, 0] = 6
    assert torch.equal(whole(source), whole(source_of(model, data, "second")))
    assert source.kept is None


def test_it_is_left_where_it_does_not_fit_pay_or_apply():
    torch.manual_seed(0)
    model, data = chain(), torch.randn(N, 4)
    tight = source_of(model, data, "second")
    tight.keep_prefix(N * 16 * 4 - 1)
    first = source_of(model, data, "first")
    first.keep_prefix(ROOM)
    whole_model = GradientSource(Target(model, "second"), data, engine="vmap")
    whole_model.keep_prefix(ROOM)
    assert tight.kept is first.kept is whole_model.kept is None
    exact = source_of(model, data, "second")
    exact.keep_prefix(N * 16 * 4)
    assert exact.kept is not None


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("rows", ["sampled-token", "token"])
def test_language_models(kind, rows):
    torch.manual_seed(0)
    deep = {"n_layer": 3} if kind == "gpt2" else {"num_hidden_layers": 3}
    model = tiny(kind, 11, **deep).double()
    data = {"input_ids": torch.randint(0, 11, (N, 5))}
    last = [n for n, _ in model.named_modules() if n.endswith("2.mlp")]
    target = Target(model, last)
    source = GradientSource(target, data, rows=rows, divergence="kl", engine="auto")
    expected = whole(source)
    source.keep_prefix(ROOM)
    assert source.kept is not None
    layers = next(m for n, m in model.named_modules() if n.endswith(("layers", ".h")))
    runs = runs_of(layers[1])
    torch.testing.assert_close(whole(source), expected, rtol=1e-10, atol=1e-13)
    assert not runs


def test_the_model_is_left_as_it_was():
    torch.manual_seed(0)
    model, data = chain(), torch.randn(N, 4)
    before = [dict(vars(module)) for module in model.modules()]
    source = source_of(model, data, "second")
    source.keep_prefix(ROOM)
    whole(source)
    after = [vars(module) for module in model.modules()]
    assert all(a.keys() == b.keys() for a, b in zip(before, after, strict=True))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_nothing_is_skipped_of_what_the_chosen_parameters_reach():
    torch.manual_seed(0)
    model = chain()
    prefix = find_prefix(Target(model, "second.bias"), torch.randn(3, 4))
    assert [call.module for call in prefix.calls.values()] == ["first"]
