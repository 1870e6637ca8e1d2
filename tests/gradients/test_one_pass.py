"""One forward and one backward pass against the loop, for every kind of rows."""

from collections.abc import Mapping

import pytest
import torch
from torch import nn

from subscape import GradientSource, Target
from subscape.gradients import one_pass as module
from subscape.rows import Rows
from tests.conftest import Made
from tests.gradients.conftest import assert_right, whole, worst_row

N_SAMPLES, LENGTH, VOCABULARY, WIDTH = 5, 4, 7, 6
AUTO: Mapping[str, str] = {"*": "auto"}
"""A choice by tensor; plain 'auto' would take the cached Jacobian for models as small as these."""


def mixing():
    """A causal layer: every position sees the mean of those up to it."""

    def forward(self, hidden):
        counts = torch.arange(1, hidden.shape[1] + 1).to(hidden)
        return hidden + torch.tanh(self.layer(hidden.cumsum(1) / counts[:, None]))

    return Made(forward, layer=nn.Linear(WIDTH, WIDTH))


class Model(nn.Module):
    """A small language model."""

    def __init__(self, head=None, *, tied=False):
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, WIDTH)
        self.first, self.norm, self.second = mixing(), nn.LayerNorm(WIDTH), mixing()
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=not tied) if head is None else head
        if tied:
            self.head.weight = self.table.weight

    def forward(self, input_ids):
        return self.head(self.second(self.norm(self.first(self.table(input_ids)))))


def raw():
    """A head that is no linear module."""
    return Made(lambda self, hidden: hidden @ self.kernel, kernel=torch.randn(WIDTH, VOCABULARY))


def keyword():
    """Hands a linear layer its input by name, which a position cannot be picked from."""
    return Made(lambda self, hidden: self.inside(input=hidden), inside=nn.Linear(WIDTH, VOCABULARY))


class SoftCap(nn.Linear):
    """A head with another forward than the linear rule's."""

    def forward(self, input):
        return torch.tanh(super().forward(input))


def data():
    generator = torch.Generator().manual_seed(1)
    return {"input_ids": torch.randint(0, VOCABULARY, (N_SAMPLES, LENGTH), generator=generator)}


def source_of(model, rows, parameters="*", dtype=torch.float64, **options):
    target = Target(model.to(dtype), parameters, outputs=options.pop("outputs", None))
    given = {"divergence": "kl", "reference": "uniform", "engine": "rule"} | options
    return GradientSource(target, data(), rows=rows, **given)


every_kind = pytest.mark.parametrize("rows", ["sample", "sampled-token", "token"])


# Heads


HEADS = {
    "linear": (Model, "head"),
    "tied": (lambda: Model(tied=True), "head"),
    "raw": (lambda: Model(raw()), None),
    "soft cap": (lambda: Model(SoftCap(WIDTH, VOCABULARY)), "head"),
    "nested": (lambda: Model(nn.Sequential(nn.Tanh(), nn.Linear(WIDTH, VOCABULARY))), "head.1"),
    "keyword": (lambda: Model(keyword()), None),
    "no layer": (lambda: Model(nn.Softmax(-1)), None),
    "followed": (lambda: Model(nn.Sequential(nn.Linear(WIDTH, VOCABULARY), nn.Tanh())), None),
}


@every_kind
@pytest.mark.parametrize("name", list(HEADS))
def test_every_head_gives_the_gradients_of_the_loop(name, rows):
    make, head = HEADS[name]
    source = source_of(make(), rows, engine=AUTO)
    assert source.plan.found.head == head
    assert "loop" not in source.engines.values()
    assert_right(source)


@every_kind
@pytest.mark.parametrize(
    ("tied", "parameters"),
    [
        *((False, name) for name in ("head", "head.bias", "table", "first", "second.layer.weight")),
        *((False, names) for names in (["first", "head"], ["norm", "table"], ["!head", "*"])),
        *((True, names) for names in ("*", "first", ["table.weight", "head.weight"])),
    ],
    ids=str,
)
def test_targets_anywhere_in_the_model(tied, parameters, rows):
    assert_right(source_of(Model(tied=tied), rows, parameters))


def test_the_head_sees_the_asked_positions_only():
    model = Model()
    source, seen = source_of(model, "sampled-token"), []
    handle = model.head.register_forward_hook(lambda m, args, output: seen.append(args[0].shape))
    rows = source.rows(0, N_SAMPLES)
    source.gradients(rows)
    handle.remove()
    assert seen == [(N_SAMPLES, 1, WIDTH)]
    with torch.no_grad():
        outputs = model(source.data["input_ids"][rows.samples])
    expected = outputs[torch.arange(N_SAMPLES), rows.position]
    torch.testing.assert_close(source.outputs_at(rows), expected, rtol=1e-12, atol=1e-12)


@every_kind
def test_an_adapter_behind_the_head_that_changes_no_output_yet(rows):
    down, up = nn.Linear(VOCABULARY, 2), nn.Linear(2, VOCABULARY)
    for values in up.parameters():
        nn.init.zeros_(values)  # as LoRA begins
    adapter = Made(lambda self, logits: logits + self.up(self.down(logits)), down=down, up=up)
    model = Model(nn.Sequential(nn.Linear(WIDTH, VOCABULARY), adapter))
    names = ["head.1.up", "head.0", "first"]
    zeros = ["head.1.down.weight", "head.1.down.bias"]
    assert_right(source_of(model, rows, names), zeros=zeros)


@every_kind
def test_a_relu_behind_the_head_that_cuts_logits_of_later_samples_only(rows):
    # Engines are tried on three samples of token 0 with logits [2.5, 3]; token 1 has [0.5, -1].
    model = nn.Sequential(nn.Embedding(2, 1), nn.Linear(1, 2), nn.ReLU()).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        model[1].weight.copy_(torch.tensor([[1.0], [2.0]]))
        model[1].bias.copy_(torch.tensor([1.5, 1.0]))
    ids = torch.tensor([[0, 0], [0, 0], [0, 0], [1, 0], [1, 1], [0, 1]])
    assert_right(GradientSource(Target(model, "1"), ids, rows=rows, engine=AUTO))


# Outputs of one's own


OUTPUTS = {
    "without the last": lambda model, batch: model(**batch)[:, :-1],
    "reversed in time": lambda model, batch: model(**batch).flip(1),
    # Two outputs of log-probabilities are logits as good as any.
    "log-probabilities": lambda model, batch: model(**batch).log_softmax(-1),
    "some": lambda model, batch: model(**batch)[..., [0, 2]],
    # Positions that see each other behind the head.
    "differences": lambda model, batch: model(**batch).sin().diff(dim=1),
}


@every_kind
@pytest.mark.parametrize("name", list(OUTPUTS))
def test_outputs_of_ones_own(name, rows):
    source = source_of(Model(), rows, outputs=OUTPUTS[name], divergence="half-reference-mse")
    assert source.plan.found.head is None
    assert_right(source)


@every_kind
def test_outputs_that_are_a_models_logits(rows):
    wrapped = Made(lambda self, input_ids: {"logits": self.model(input_ids)}, model=Model())
    logits = {"outputs": lambda model, batch: model(**batch)["logits"]}
    source = source_of(wrapped, rows, **logits)
    assert source.plan.found.head == "model.head"
    assert_right(source)


# The same numbers whenever they are asked for


@every_kind
def test_a_row_depends_on_no_other(rows):
    # Not on how many there are beside it, and not on their order.
    source = source_of(Model(), rows)
    n_positions = source.draws.per_sample
    together = source.rows_of(torch.arange(N_SAMPLES), draw=0)
    gradients = source.gradients(together).flat

    def part(samples):
        """Rows of some samples at the positions that they have together, and their places there."""
        at = (torch.tensor(samples)[:, None] * n_positions + torch.arange(n_positions)).flatten()
        position = None if together.position is None else together.position[at]
        partner = torch.arange(len(at)).roll(1)
        counts = n_positions, together.n_positions
        return at, Rows(together.samples[at], position, partner, (len(at),), *counts)

    for samples in ([0], [1], [2], [3], [4], [3, 0, 4, 2, 1], [4, 1]):
        at, asked = part(samples)
        assert worst_row(source.gradients(asked).flat, gradients[at]) <= 1e-12


@every_kind
def test_no_graph_is_asked_of_the_caller(rows):
    # Evaluation runs without gradients; what is made there is the same, and has no graph.
    source = source_of(Model(), rows)
    expected = whole(source)
    with torch.no_grad():
        assert torch.equal(whole(source), expected)
    assert not expected.requires_grad
    assert not source.outputs_at(source.rows(0, source.n_rows)).requires_grad


def test_causal_rows_by_hand():
    # f_t = w · Σ_{s ≤ t} x_s: the row at t has the gradient e_t Σ_{s ≤ t} x_s.
    layer = nn.Linear(1, 1, bias=False).double()
    model = Made(lambda self, inputs: self.layer(inputs).cumsum(1), layer=layer)
    source = GradientSource(
        Target(model),
        torch.tensor([[1.0, 2.0, 3.0], [4.0, 0.0, -1.0]], dtype=torch.float64)[..., None],
        rows="token",
        divergence=lambda outputs, reference: outputs[:, 0],
        engine="rule",
    )
    found = source.gradients(source.rows_of(torch.tensor([0, 1]), draw=0))
    assert found.flat.flatten().tolist() == [1.0, 3.0, 6.0, 4.0, 4.0, 3.0]


@pytest.mark.parametrize("engine", ["replay", "vmap"])
@pytest.mark.parametrize("rows", ["sampled-token", "token"])
def test_every_engine_gives_the_same_rows(engine, rows):
    model = Model()
    expected, found = (source_of(model, rows, engine={"*": name}) for name in ("rule", engine))
    assert worst_row(whole(found), whole(expected)) <= 1e-10


@every_kind
def test_engines_mixed_within_a_model(rows):
    engines = {"table.*": "loop", "first.*.weight": "vmap", "norm.*": "replay", "*": "rule"}
    source = source_of(Model(), rows, engine=engines)
    assert set(source.engines.values()) == {"loop", "vmap", "replay (norm)", "rule"}
    assert_right(source)


def test_vmap_over_every_token_is_chunked(monkeypatch):
    source = source_of(Model(), "token", "head.bias", engine={"*": "vmap"})
    expected = whole(source)
    monkeypatch.setattr(module, "CHUNK_BUDGET", 3 * VOCABULARY * 8)
    assert worst_row(whole(source), expected) <= 1e-12


# Half precision


@every_kind
def test_a_half_precision_model_has_gradients_in_float32(rows):
    model, divergence = Model(), "half-reference-mse"
    expected = whole(source_of(model, rows, dtype=torch.float32, divergence=divergence))
    half = source_of(model, rows, dtype=torch.bfloat16, divergence=divergence)
    found = half.gradients(half.rows(0, half.n_rows))
    assert found.flat.dtype == torch.float32
    assert all(gradient.dtype == torch.float32 for gradient in found.dense().values())
    # bfloat16 has 8 bits: 0.4 % a number, a few times that through the layers.
    assert worst_row(found.flat, expected) <= 5e-2
