"""Models that cannot be decomposed are refused by name and remedy, and left as they were found.

A case is a model, a piece of what is said of it: argument, expectation, what came, repair.
"""

import copy

import pytest
import torch
from torch import nn

from subscape import Target, decompose
from tests.conftest import Made
from tests.test_bad_input import SMALL, as_users_have_it, refused  # noqa: F401
from tests.training.test_model_left_as_found import assert_unchanged, record

ENGINES = ["auto", "jacobian", "rule", "replay", "vmap", "loop"]


def data():
    return torch.randn(40, 4, generator=torch.Generator().manual_seed(0))


def outputs(change):
    return Made(lambda self, x: change(self.linear(x)), linear=nn.Linear(4, 3))


def counting():
    model = Made(lambda self, x: self.linear(x) + self.n.add_(1), linear=nn.Linear(4, 3))
    model.register_buffer("n", torch.zeros(()))
    return model


def replacing():
    def forward(self, x):
        self.n = self.n + 1
        return self.linear(x) * self.n

    model = Made(forward, linear=nn.Linear(4, 3))
    model.register_buffer("n", torch.ones(()))
    return model


def inside(module):
    return nn.Sequential(nn.Linear(4, 4), nn.Sequential(module), nn.Linear(4, 3))


def meta():
    with torch.device("meta"):
        return nn.Linear(4, 3)


def without_bias_values():
    model = inside(nn.Tanh())
    model[0].bias = nn.Parameter(torch.empty(4, device="meta"))
    return model


def tracked():
    norm = nn.InstanceNorm1d(2, track_running_stats=True)
    return nn.Sequential(nn.Linear(4, 4), nn.Unflatten(1, (2, 2)), norm, nn.Flatten(1))


def scripted(way):
    inner = nn.Linear(4, 4)
    return torch.jit.script(inner) if way == "script" else torch.jit.trace(inner, data()[:2])


def quietly(make):
    """Of what torch is about to drop."""

    def made():
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return make()

    return made


EVAL = "model | leaves the model's buffers as they are | {} | Call model.eval() first"
MODELS = {
    "complex parameters": (
        lambda: nn.Linear(4, 3, dtype=torch.complex64),
        "parameters | floating-point parameters | complex64 | Exclude them",
    ),
    "one complex parameter": (
        lambda: Made(
            lambda self, x: self.linear(x),
            linear=nn.Linear(4, 3),
            z=torch.zeros(2).to(torch.cfloat),
        ),
        "parameters | floating-point parameters | ['z'] of torch.complex64 | Exclude them: '!z'",
    ),
    "complex outputs": (
        lambda: outputs(lambda y: torch.complex(y, y)),
        "outputs | floating-point numbers | complex64 | Return scores",
    ),
    "whole outputs": (
        lambda: outputs(lambda y: y.round().long()),
        "outputs | floating-point numbers | int64 | Return scores",
    ),
    "classes": (
        lambda: outputs(lambda y: y.argmax(1)),
        "outputs | floating-point numbers | int64 | Return scores",
    ),
    "truths": (
        lambda: outputs(lambda y: y > 0),
        "outputs | floating-point numbers | bool | Return scores",
    ),
    "no outputs": (lambda: outputs(lambda y: y[:, :0]), "outputs | at least one number | [2, 0] |"),
    "nothing returned": (
        lambda: outputs(lambda y: None),
        "TypeError: outputs | a model that returns a tensor | NoneType | outputs=lambda",
    ),
    "a number": (
        lambda: outputs(lambda y: float(y.detach().sum())),
        "TypeError: outputs | a model that returns a tensor | float | outputs=lambda",
    ),
    "NaN": (
        lambda: outputs(lambda y: y * torch.nan),
        "outputs | finite values | NaN or infinite ones | Check inputs and model.",
    ),
    "meta": (meta, "model | parameters that have values | 'weight', which is on the meta device |"),
    "partly meta": (
        without_bias_values,
        "model | parameters that have values | '0.bias' | Load the weights",
    ),
    "lazy": (
        lambda: nn.LazyLinear(3),
        "model | parameters that have values | 'weight', which is lazy | Call the model once",
    ),
    "lazy inside": (
        lambda: inside(nn.LazyBatchNorm1d()),
        "model | parameters that have values | which is lazy | Call the model once",
    ),
    "scripted": (
        quietly(lambda: scripted("script")),
        "model | a module in Python | RecursiveScriptModule | compiled from",
    ),
    "traced": (
        quietly(lambda: scripted("trace")),
        "model | a module in Python | TopLevelTracedModule | compiled from",
    ),
    "scripted inside": (
        quietly(lambda: inside(scripted("script"))),
        "model | a module in Python | ScriptModule | compiled from",
    ),
    "parallel": (
        lambda: nn.DataParallel(nn.Linear(4, 3)),
        "model | a module on one device | DataParallel | model.module",
    ),
    "parallel inside": (
        lambda: inside(nn.DataParallel(nn.Linear(4, 4))),
        "model | a module on one device | DataParallel | model.module",
    ),
    "spectral norm": (
        lambda: inside(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))).train(),
        EVAL.format("0._u"),
    ),
    "spectral norm by hooks": (
        quietly(lambda: inside(nn.utils.spectral_norm(nn.Linear(4, 4))).train()),
        EVAL.format("weight_u"),
    ),
    "instance norm": (lambda: tracked().train(), EVAL.format("running_mean")),
    "counter": (counting, EVAL.format("'n'")),
    "counter replaced": (replacing, EVAL.format("'n'")),
    "batch norm": (
        lambda: inside(nn.BatchNorm1d(4)).train(),
        "model | in eval mode | train mode in ['1.0'] | Call model.eval() first.",
    ),
    "dropout": (
        lambda: inside(nn.AlphaDropout(0.5)).train(),
        "model | in eval mode | train mode in ['1.0'] | Call model.eval() first.",
    ),
    "no module": (lambda: lambda x: x, "model | a torch.nn.Module | function |"),
    "weights only": (
        lambda: nn.Linear(4, 3).state_dict(),
        "model | a torch.nn.Module | OrderedDict |",
    ),
    "a class": (lambda: nn.Linear, "model | a torch.nn.Module | type |"),
    "none": (lambda: None, "model | a torch.nn.Module | NoneType |"),
    "a name": (lambda: "gpt2", "model | a torch.nn.Module | str |"),
}
NEEDS_A_CALL = [k for k, (_, said) in MODELS.items() if said.startswith(("outputs", EVAL[:30]))]


def check(make, said, engine):
    model = make()
    before = record(model) if isinstance(model, nn.Module) and "have values" not in said else None
    refused(lambda: decompose(model, data(), engine=engine, **SMALL), said)
    if before is not None:
        assert_unchanged(before, model)


@pytest.mark.parametrize("kind", list(MODELS))
def test_a_model_that_cannot_be_decomposed(kind):
    check(*MODELS[kind], "auto")


@pytest.mark.parametrize("engine", ENGINES[1:])
@pytest.mark.parametrize("kind", NEEDS_A_CALL)
def test_whatever_the_engine(kind, engine):
    check(*MODELS[kind], engine)


class OwnError(Exception):
    pass


ERRORS = [
    KeyError("input_ids"),
    ValueError("own"),
    TypeError("own"),
    ZeroDivisionError("own"),
    AssertionError("own"),
    NotImplementedError("own"),
    AttributeError("own"),
    StopIteration("own"),
    RecursionError("own"),
    FileNotFoundError(2, "own"),
    UnicodeDecodeError("utf-8", b"", 0, 1, "own"),
    IndexError("own"),
    RuntimeError("own"),
    OwnError("own"),
    ImportError("own"),
    torch.linalg.LinAlgError("own"),
]


def failing(error):
    def forward(self, x):
        raise error

    return Made(forward, linear=nn.Linear(4, 3))


@pytest.mark.parametrize("engine", ["auto", "vmap", "loop"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_a_model_that_fails_at_once(error, engine):
    said = f"data | inputs that the model takes | {type(error).__name__} | Try model(data[:2])"
    check(lambda: failing(error), said, engine)


MEMORY = [MemoryError(), torch.OutOfMemoryError("no"), RuntimeError("can't allocate memory")]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("error", MEMORY, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("call", [0, 2, 5])
def test_memory_is_never_blamed_on_anything_else(error, engine, call):
    calls = []

    def forward(self, x):
        calls.append(1)
        if len(calls) > call:
            raise error
        return self.linear(x)

    model = Made(forward, linear=nn.Linear(4, 3))
    before = record(model)
    with pytest.raises(type(error)) as info:
        decompose(model, data(), engine=engine, **SMALL)
    assert info.value is error
    assert_unchanged(before, model)


class OfDouble(torch.autograd.Function):
    """Without rules for vmap, forward mode or a second derivative."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return 2 * grad


@pytest.mark.filterwarnings("ignore:Row gradients of", "ignore:forward mode is not there")
def test_a_function_with_a_backward_of_its_own_is_decomposed_and_measured():
    from subscape import measure

    model = Made(lambda self, x: OfDouble.apply(self.linear(x)), linear=nn.Linear(4, 3))
    plain = Made(lambda self, x: 2 * self.linear(x), linear=copy.deepcopy(model.linear))
    found = decompose(model, data(), **SMALL)
    config = {"n_rows": 16, "n_references": 2, "progress": False}
    cards, expected = (measure(found, m, data(), **config) for m in (model, plain))
    for card, right in zip(cards, expected, strict=True):
        ups = [(c.top_outputs.up, c.top_outputs.down) for c in (card, right) if c.top_outputs]
        for mine, other in zip(*ups, strict=True) if ups else ():
            assert [pair.output for pair in mine] == [pair.output for pair in other]
            assert [p.effect for p in mine] == pytest.approx([p.effect for p in other], rel=1e-2)


def test_parameters_in_another_order_are_another_model():
    """Through .data, which torch's version counters do not see; sums and norm stay."""
    layer = nn.Linear(4, 3)
    target = Target(layer)
    seen = {target.fingerprint()["sha256"]}
    for change in (
        lambda: layer.weight.data.copy_(layer.weight.data.flip(0).clone()),
        lambda: layer.weight.data.copy_(layer.weight.data.flip(1).clone()),
        lambda: layer.bias.data.copy_(layer.bias.data.roll(1).clone()),
    ):
        change()
        seen.add(target.fingerprint()["sha256"])
    assert len(seen) == 4
