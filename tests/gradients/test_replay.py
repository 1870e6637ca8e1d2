"""Replays of modules that have no rule, alone and within a model, against the loop."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import nn

from subscape import GradientSource, Target
from subscape.gradients import replay

N_SAMPLES = 6
REPLAYED = {"*": "replay"}
every_kind = pytest.mark.parametrize("rows", ["sample", "sampled-token", "token"])


@dataclass(frozen=True)
class Case:
    """A model, inputs, the parameters to replay, and the module that is replayed for them."""

    model: nn.Module
    data: Any
    parameters: str | list[str]
    replayed: str


class RootMeanSquare(nn.Module):
    """As transformers' norms are written."""

    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size))

    def forward(self, hidden):
        scale = torch.rsqrt(hidden.square().mean(-1, keepdim=True) + 1e-6)
        return self.weight * (hidden * scale)


class Einsum(nn.Module):
    """Raw parameters: a kernel of three modes, a vector and a scalar."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(4, 2, 4))
        self.offset = nn.Parameter(torch.randn(4))
        self.scale = nn.Parameter(torch.tensor(1.3))

    def forward(self, hidden):
        mixed = torch.einsum("...d,dhe->...he", hidden, self.kernel).tanh().sum(-2)
        return self.scale * mixed + self.offset


class Recurrent(nn.Module):
    """h_t = tanh(A h_{t-1} + x_t), position after position."""

    def __init__(self):
        super().__init__()
        self.transition = nn.Parameter(0.5 * torch.randn(4, 4))

    def forward(self, hidden):
        state, states = torch.ones_like(hidden[:, 0]), []
        for t in range(hidden.shape[1]):
            state = torch.tanh(state @ self.transition + hidden[:, t])
            states.append(state)
        return torch.stack(states, 1)


class Gated(nn.Module):
    """Two outputs, one keyword argument and one that is no tensor."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(4, 4))

    def forward(self, hidden, *, gate, power):
        gated = (hidden @ self.kernel) * gate.sigmoid() ** power
        return {"value": gated, "square": gated.square()}


class AroundGated(nn.Module):
    def __init__(self):
        super().__init__()
        self.gated = Gated()

    def forward(self, hidden):
        both = self.gated(hidden, gate=hidden.flip(1), power=2)
        return both["value"] - 0.3 * both["square"]


class Twice(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, hidden):
        return self.layer(torch.tanh(self.layer(hidden)))


class Attention(nn.Module):
    """`nn.MultiheadAttention`, whose output layer is never called."""

    def __init__(self):
        super().__init__()
        self.heads = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, hidden):
        mask = torch.ones(hidden.shape[1], hidden.shape[1], dtype=torch.bool).triu(1)
        return hidden + self.heads(hidden, hidden, hidden, attn_mask=mask, need_weights=False)[0]


def ids():
    return {"input_ids": torch.randint(0, 7, (N_SAMPLES, 5))}


def tokens(*layers):
    """The layers between an embedding and a head."""
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 4), *layers, nn.Linear(4, 7))
    return model, torch.randint(0, 7, (N_SAMPLES, 5))


def norm():
    return Case(*tokens(RootMeanSquare(4)), "2", "2")


def einsum():
    return Case(*tokens(Einsum()), "2", "2")


def recurrent():
    return Case(*tokens(Recurrent()), "2", "2")


def gated():
    return Case(*tokens(AroundGated()), "2", "2.gated")


def called_twice():
    return Case(*tokens(Twice(RootMeanSquare(4))), "2", "2.layer")


def attention():
    return Case(*tokens(Attention()), "2", "2.heads")


CASES: dict[str, Callable[[], Case]] = {
    make.__name__: make for make in (norm, einsum, recurrent, gated, called_twice, attention)
}


def made(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        case = make()
        case.model.double()
        return case


def worst_row(found, expected):
    """Largest relative error of a row; no row may be zero, or the comparison would be empty."""
    assert (expected.norm(dim=1) > 0).all()
    return float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max())


def made_source(case, rows, engine):
    target = Target(case.model, case.parameters)
    # Against the uniform distribution no row is without gradient, as one is against a row like it.
    return GradientSource(
        target, case.data, rows=rows, engine=engine, divergence="kl", reference="uniform"
    )


def whole(source):
    return source.gradients(source.rows(0, source.n_rows)).flat


def loop_of(source):
    options = {"divergence": "kl", "reference": source.reference, "rows": source.kind}
    return GradientSource(source.target, source.data, engine="loop", **options)


def check(source):
    loop = loop_of(source)
    expected = loop.gradients(loop.rows(0, loop.n_rows))
    for name, gradient in expected.dense().items():
        assert gradient.abs().sum() > 0, name
    assert worst_row(whole(source), expected.flat) <= 1e-9


@every_kind
@pytest.mark.parametrize("name", list(CASES))
def test_replay_equals_the_loop(name, rows):
    case = made(CASES[name])
    source = made_source(case, rows, REPLAYED)
    assert set(source.engines.values()) == {f"replay ({case.replayed})"}
    check(source)


class Tempered(nn.Module):
    """An attention block with a raw parameter of its own, so that it can be replayed as a whole only."""

    def __init__(self, block, size):
        super().__init__()
        self.block = block
        self.temperature = nn.Parameter(torch.randn(size))

    def forward(self, hidden_states, *args, **kwargs):
        return self.block(hidden_states * self.temperature, *args, **kwargs)


@every_kind
def test_replay_of_a_state_space_mixer(rows, exact_model):
    # The slow path: raw parameters A and D in a scan.
    mixer = "backbone.layers.0.mixer"
    names = [f"{mixer}.A_log", f"{mixer}.D"]
    case = made(lambda: Case(exact_model("mamba", 7), ids(), names, mixer))
    source = made_source(case, rows, REPLAYED)
    assert source.engines == dict.fromkeys(names, f"replay ({mixer})")
    check(source)


@every_kind
@pytest.mark.parametrize(
    ("kind", "block"), [("gpt2", "transformer.h.1.attn"), ("llama", "model.layers.0.self_attn")]
)
def test_replay_of_an_attention_block_as_a_unit(kind, block, rows, exact_model):
    def tempered():
        model = exact_model(kind, 7)
        parent, _, local = block.rpartition(".")
        whole = Tempered(model.get_submodule(block), 8)
        setattr(model.get_submodule(parent), local, whole)
        return Case(model, ids(), f"{block}.temperature", block)

    source = made_source(made(tempered), rows, REPLAYED)
    assert source.engines == {f"{block}.temperature": f"replay ({block})"}
    check(source)


def test_auto_replays_what_has_no_rule():
    source = made_source(replace(made(einsum), parameters="*"), "sampled-token", "auto")
    assert source.engine == "mixed"
    assert source.engines == {
        "0.weight": "rule",
        "1.weight": "rule",
        "1.bias": "rule",
        "2.kernel": "replay (2)",
        "2.offset": "replay (2)",
        "2.scale": "replay (2)",
        "3.weight": "rule",
        "3.bias": "rule",
    }
    check(source)


@every_kind
def test_replays_in_chunks_equal_a_replay_at_once(monkeypatch, rows):
    source = made_source(made(einsum), rows, REPLAYED)
    at_once = whole(source)
    seen, original = [], replay.vmap

    def spy(function, **options):
        seen.append(options["chunk_size"])
        return original(function, **options)

    monkeypatch.setattr(replay, "vmap", spy)
    monkeypatch.setattr(replay, "CHUNK_BUDGET", 2 * 37 * 8)  # two rows of 32 + 4 + 1 numbers
    assert worst_row(whole(source), at_once) <= 1e-12
    assert seen == [2]


@every_kind
def test_replay_of_the_head(rows):
    case = made(lambda: Case(*tokens(), "2", "2"))
    source = made_source(case, rows, REPLAYED)
    assert set(source.engines.values()) == {"replay (2)"}
    check(source)


class Mixer(nn.Module):
    """Positions look at each other where a mask lets them."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(3, 3))

    def forward(self, hidden, mask):
        scores = hidden @ self.kernel @ hidden.mT
        if mask is not None:
            scores = scores.masked_fill(mask[:, None] == 0, -1e9)
        return scores.softmax(-1) @ hidden


class Masked(nn.Module):
    """Hands a mask of ones on as None, as transformers does."""

    def __init__(self):
        super().__init__()
        self.mixer = Mixer()

    def forward(self, hidden, attention_mask):
        return self.mixer(hidden, None if attention_mask.all() else attention_mask).mean(1)


@pytest.mark.parametrize(
    ("padded", "unpadded"), [([3, 4, 5], [0, 1, 2]), ([0, 1], [2, 3, 5])], ids=["later", "first"]
)
def test_a_mask_that_is_there_for_padded_batches_only(padded, unpadded):
    # Engines are tried on the first three samples: without the mask in one case, with it in the other.
    mask = torch.ones(N_SAMPLES, 5, dtype=torch.long)
    mask[padded, 2:] = 0
    hidden = torch.randn(N_SAMPLES, 5, 3, generator=torch.Generator().manual_seed(2)).double()
    data = {"hidden": hidden, "attention_mask": mask}
    source = made_source(made(lambda: Case(Masked(), data, "*", "mixer")), "sample", REPLAYED)
    loop = loop_of(source)
    for samples in (unpadded, padded, list(range(N_SAMPLES))):
        rows = source.rows_of(torch.tensor(samples), draw=0)
        found, expected = source.gradients(rows).flat, loop.gradients(rows).flat
        assert worst_row(found, expected) <= 1e-9


def test_a_weight_under_a_parametrization_is_replayed_with_its_module():
    def weight_norm():
        layer = torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
        return Case(*tokens(layer), "2", "2")

    source = made_source(made(weight_norm), "sampled-token", "auto")
    assert source.engines == {
        "2.bias": "rule",
        "2.parametrizations.weight.original0": "replay (2)",
        "2.parametrizations.weight.original1": "replay (2)",
    }
    check(source)


class LastState(nn.Module):
    def __init__(self):
        super().__init__()
        self.recurrence = nn.LSTM(4, 3, batch_first=True)

    def forward(self, inputs):
        return self.recurrence(inputs)[0][:, -1]


def test_a_fused_lstm_cannot_be_replayed_and_goes_through_the_loop():
    # Its states have no sample axis first, and vmap does not know it.
    case = made(lambda: Case(LastState(), torch.randn(N_SAMPLES, 5, 4).double(), "*", ""))
    with pytest.raises(ValueError, match="recurrence have no sample axis first"):
        made_source(case, "sample", REPLAYED)
    with pytest.warns(UserWarning, match="made one by one.* replay of recurrence: "):
        source = made_source(case, "sample", {"*": "auto"})
    assert set(source.engines.values()) == {"loop"}
    check(source)
