"""Replays of modules that have no rule, alone and within a model, against the loop."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import nn

from subscape import GradientSource, Target
from subscape.gradients import replay
from tests.conftest import Made
from tests.gradients.conftest import assert_right, exact, whole, worst_row

N_SAMPLES = 6
REPLAYED = {"*": "replay"}
every_kind = pytest.mark.parametrize("rows", ["sample", "sampled-token", "token"])


@dataclass(frozen=True)
class Case:
    """A model, inputs, and the parameters to replay."""

    model: nn.Module
    data: Any
    parameters: str | list[str] = "2"


def root_mean_square():
    """As transformers' norms are written."""

    def forward(self, hidden):
        scale = torch.rsqrt(hidden.square().mean(-1, keepdim=True) + 1e-6)
        return self.weight * (hidden * scale)

    return Made(forward, weight=torch.randn(4))


def einsum():
    """Raw parameters: a kernel of three modes, a vector and a scalar."""

    def forward(self, hidden):
        mixed = torch.einsum("...d,dhe->...he", hidden, self.kernel).tanh().sum(-2)
        return self.scale * mixed + self.offset

    parts = {"kernel": torch.randn(4, 2, 4), "offset": torch.randn(4), "scale": torch.tensor(1.3)}
    return Made(forward, **parts)


def recurrent():
    """h_t = tanh(A h_{t-1} + x_t), position after position."""

    def forward(self, hidden):
        state, states = torch.ones_like(hidden[:, 0]), []
        for t in range(hidden.shape[1]):
            state = torch.tanh(state @ self.transition + hidden[:, t])
            states.append(state)
        return torch.stack(states, 1)

    return Made(forward, transition=0.5 * torch.randn(4, 4))


def around_gated():
    """A module with two outputs, one keyword argument and one that is no tensor."""

    def gated(self, hidden, *, gate, power):
        gated = (hidden @ self.kernel) * gate.sigmoid() ** power
        return {"value": gated, "square": gated.square()}

    def forward(self, hidden):
        both = self.gated(hidden, gate=hidden.flip(1), power=2)
        return both["value"] - 0.3 * both["square"]

    return Made(forward, gated=Made(gated, kernel=torch.randn(4, 4)))


def called_twice():
    return Made(lambda self, x: self.layer(torch.tanh(self.layer(x))), layer=root_mean_square())


def attention():
    """`nn.MultiheadAttention`, whose output layer is never called."""

    def forward(self, hidden):
        mask = torch.ones(hidden.shape[1], hidden.shape[1], dtype=torch.bool).triu(1)
        return hidden + self.heads(hidden, hidden, hidden, attn_mask=mask, need_weights=False)[0]

    return Made(forward, heads=nn.MultiheadAttention(4, 2, batch_first=True))


def ids():
    return {"input_ids": torch.randint(0, 7, (N_SAMPLES, 5))}


def tokens(*layers):
    """The layers between an embedding and a head."""
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 4), *layers, nn.Linear(4, 7))
    return model, torch.randint(0, 7, (N_SAMPLES, 5))


def made_source(case, rows, engine=REPLAYED):
    target = Target(case.model.double(), case.parameters)
    # Against the uniform distribution no row is without gradient, as one is against a row like it.
    return GradientSource(
        target, case.data, rows=rows, engine=engine, divergence="kl", reference="uniform"
    )


@every_kind
@pytest.mark.parametrize(
    ("make", "replayed"),
    [
        (root_mean_square, "2"),
        (einsum, "2"),
        (recurrent, "2"),
        (around_gated, "2.gated"),
        (called_twice, "2.layer"),
        (attention, "2.heads"),
        (None, "2"),  # the head itself
    ],
)
def test_replay_equals_the_loop(make, replayed, rows):
    source = made_source(Case(*tokens(*([make()] if make else []))), rows)
    assert set(source.engines.values()) == {f"replay ({replayed})"}
    assert_right(source)


@every_kind
def test_replay_of_a_state_space_mixer(rows):
    # The slow path: raw parameters A and D in a scan.
    mixer = "backbone.layers.0.mixer"
    names = [f"{mixer}.A_log", f"{mixer}.D"]
    case = Case(exact("mamba", 7), ids(), names)
    source, loop = made_source(case, rows), made_source(case, rows, "loop")
    assert source.engines == dict.fromkeys(names, f"replay ({mixer})")
    # Some of it is computed in float32: outputs of a row alone would differ by as much.
    expected = loop.gradients(loop.rows(0, loop.n_rows))
    assert all(values.any() for values in expected.dense().values())
    assert worst_row(whole(source), expected.flat) <= 1e-9


@every_kind
@pytest.mark.parametrize(
    ("kind", "block"), [("gpt2", "transformer.h.1.attn"), ("llama", "model.layers.0.self_attn")]
)
def test_replay_of_an_attention_block_as_a_unit(kind, block, rows):
    # With a raw parameter of its own it can be replayed as a whole only.
    model, (parent, _, local) = exact(kind, 7), block.rpartition(".")
    tempered = Made(
        lambda self, hidden_states, *args, **named: self.block(
            hidden_states * self.temperature, *args, **named
        ),
        block=model.get_submodule(block),
        temperature=torch.randn(8),
    )
    setattr(model.get_submodule(parent), local, tempered)
    source = made_source(Case(model, ids(), f"{block}.temperature"), rows)
    assert source.engines == {f"{block}.temperature": f"replay ({block})"}
    assert_right(source)


def test_auto_replays_what_has_no_rule():
    case = replace(Case(*tokens(einsum())), parameters="*")
    source = made_source(case, "sampled-token", "auto")
    assert source.engine == "mixed"
    ruled = ["0.weight", "1.weight", "1.bias", "3.weight", "3.bias"]
    replayed = ["2.kernel", "2.offset", "2.scale"]
    assert source.engines == dict.fromkeys(ruled, "rule") | dict.fromkeys(replayed, "replay (2)")
    assert_right(source)


@every_kind
def test_replays_in_chunks_equal_a_replay_at_once(monkeypatch, rows):
    source = made_source(Case(*tokens(einsum())), rows)
    at_once = whole(source)
    seen, original = [], replay.vmap

    def spy(function, **options):
        seen.append(options["chunk_size"])
        return original(function, **options)

    monkeypatch.setattr(replay, "vmap", spy)
    monkeypatch.setattr(replay, "CHUNK_BUDGET", 2 * 37 * 8)  # two rows of 32 + 4 + 1 numbers
    assert worst_row(whole(source), at_once) <= 1e-12
    assert seen == [2]


def masked():
    """Hands a mask of ones on as None, as transformers does; positions look where it lets them."""

    def mix(self, hidden, mask):
        scores = hidden @ self.kernel @ hidden.mT
        if mask is not None:
            scores = scores.masked_fill(mask[:, None] == 0, -1e9)
        return scores.softmax(-1) @ hidden

    def forward(self, hidden, attention_mask):
        return self.mixer(hidden, None if attention_mask.all() else attention_mask).mean(1)

    return Made(forward, mixer=Made(mix, kernel=torch.randn(3, 3)))


@pytest.mark.parametrize(
    ("padded", "unpadded"), [([3, 4, 5], [0, 1, 2]), ([0, 1], [2, 3, 5])], ids=["later", "first"]
)
def test_a_mask_that_is_there_for_padded_batches_only(padded, unpadded):
    # Engines are tried on the first three samples: without the mask in one case, with it in the other.
    mask = torch.ones(N_SAMPLES, 5, dtype=torch.long)
    mask[padded, 2:] = 0
    data = {"hidden": torch.randn(N_SAMPLES, 5, 3).double(), "attention_mask": mask}
    model = masked()
    source, loop = (made_source(Case(model, data, "*"), "sample", e) for e in (REPLAYED, "loop"))
    assert source.engines == {"mixer.kernel": "replay (mixer)"}
    for samples in (unpadded, padded, list(range(N_SAMPLES))):
        rows = source.rows_of(torch.tensor(samples), draw=0)
        found, expected = source.gradients(rows).flat, loop.gradients(rows).flat
        assert worst_row(found, expected) <= 1e-9


def test_a_weight_under_a_parametrization_is_replayed_with_its_module():
    layer = torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    source = made_source(Case(*tokens(layer)), "sampled-token", "auto")
    originals = [f"2.parametrizations.weight.original{n}" for n in (0, 1)]
    assert source.engines == {"2.bias": "rule"} | dict.fromkeys(originals, "replay (2)")
    assert_right(source)
