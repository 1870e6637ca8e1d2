"""One forward and one backward pass against the loop, for every kind of rows."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import nn

from subscape import GradientSource, Target
from subscape.gradients import one_pass as module
from subscape.gradients.plan import relative_error
from subscape.rows import Rows

N_SAMPLES, LENGTH, VOCABULARY, WIDTH = 5, 4, 7, 6
AUTO: Mapping[str, str] = {"*": "auto"}
"""A choice by tensor; plain 'auto' would take the cached Jacobian for models as small as these."""


class Mixing(nn.Module):
    """A causal layer: every position sees the mean of those up to it."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden):
        counts = torch.arange(1, hidden.shape[1] + 1).to(hidden)
        return hidden + torch.tanh(self.layer(hidden.cumsum(1) / counts[:, None]))


class Model(nn.Module):
    """A small language model."""

    def __init__(self, head=None, *, tied=False):
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, WIDTH)
        self.first, self.norm, self.second = Mixing(), nn.LayerNorm(WIDTH), Mixing()
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=not tied) if head is None else head
        if tied:
            self.head.weight = self.table.weight

    def forward(self, input_ids):
        return self.head(self.second(self.norm(self.first(self.table(input_ids)))))


class Raw(nn.Module):
    """A head that is no linear module."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(WIDTH, VOCABULARY))

    def forward(self, hidden):
        return hidden @ self.kernel


class SoftCap(nn.Linear):
    """A head with another forward than the linear rule's."""

    def forward(self, input):
        return torch.tanh(super().forward(input))


class Keyword(nn.Module):
    """Hands a linear layer its input by name, which a position cannot be picked from."""

    def __init__(self):
        super().__init__()
        self.inside = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, hidden):
        return self.inside(input=hidden)


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().double()


def data():
    generator = torch.Generator().manual_seed(1)
    return {"input_ids": torch.randint(0, VOCABULARY, (N_SAMPLES, LENGTH), generator=generator)}


def source_of(model, rows, parameters="*", **options):
    target = Target(model, parameters, outputs=options.pop("outputs", None))
    given = {"divergence": "kl", "reference": "uniform", "engine": "rule"} | options
    return GradientSource(target, data(), rows=rows, **given)


def whole(source):
    return source.gradients(source.rows(0, source.n_rows)).flat


def worst(found, expected):
    """Largest relative error of a row; no row may be zero, or the comparison would be empty."""
    assert (expected.norm(dim=1) > 0).all()
    return float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max())


def assert_right(source, bound=1e-9):
    loop = GradientSource(
        source.target,
        source.data,
        rows=source.kind,
        engine="loop",
        divergence=source.divergence,
        reference=source.reference,
    )
    found, expected = (s.gradients(s.rows(0, s.n_rows)).dense() for s in (source, loop))
    assert list(found) == source.target.names
    for name in expected:
        assert expected[name].abs().sum() > 0, name
        assert relative_error(found[name], expected[name]) <= bound, name


every_kind = pytest.mark.parametrize("rows", ["sample", "sampled-token", "token"])


# Heads


HEADS: dict[str, tuple[Callable[[], nn.Module], str | None]] = {
    "linear": (lambda: Model(), "head"),
    "tied": (lambda: Model(tied=True), "head"),
    "raw": (lambda: Model(Raw()), None),
    "soft cap": (lambda: Model(SoftCap(WIDTH, VOCABULARY)), "head"),
    "nested": (lambda: Model(nn.Sequential(nn.Tanh(), nn.Linear(WIDTH, VOCABULARY))), "head.1"),
    "keyword": (lambda: Model(Keyword()), None),
    "no layer": (lambda: Model(nn.Softmax(-1)), None),
    "followed": (lambda: Model(nn.Sequential(nn.Linear(WIDTH, VOCABULARY), nn.Tanh())), None),
}


@every_kind
@pytest.mark.parametrize("name", list(HEADS))
def test_every_head_gives_the_gradients_of_the_loop(name, rows):
    make, head = HEADS[name]
    source = source_of(seeded(make), rows, engine=AUTO)
    assert source.plan is not None
    assert source.plan.found.head == head
    assert "loop" not in source.engines.values()
    assert_right(source)


@every_kind
@pytest.mark.parametrize(
    "parameters",
    [
        "head",
        "head.bias",
        "table",
        "first",
        "second.layer.weight",
        ["first", "head"],
        ["norm", "table"],
        ["!head", "*"],
    ],
    ids=str,
)
def test_targets_anywhere_in_the_model(parameters, rows):
    assert_right(source_of(seeded(Model), rows, parameters))


@every_kind
@pytest.mark.parametrize("parameters", ["*", "first", ["table.weight", "head.weight"]], ids=str)
def test_targets_in_a_model_with_a_tied_head(parameters, rows):
    assert_right(source_of(seeded(lambda: Model(tied=True)), rows, parameters))


def test_the_head_sees_the_asked_positions_only():
    model = seeded(Model)
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


class Adapter(nn.Module):
    """Adds nothing to its input at first, as LoRA does."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Linear(VOCABULARY, 2), nn.Linear(2, VOCABULARY)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, logits):
        return logits + self.up(self.down(logits))


@every_kind
def test_an_adapter_behind_the_head_that_changes_no_output_yet(rows):
    model = seeded(lambda: Model(nn.Sequential(nn.Linear(WIDTH, VOCABULARY), Adapter())))
    assert_right(source_of(model, rows, ["head.1.up", "head.0", "first"]))


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


def without_last(model, batch):
    return model(**batch)[:, :-1]


def reversed_in_time(model, batch):
    return model(**batch).flip(1)


def log_probabilities(model, batch):
    return model(**batch).log_softmax(-1)


def some_outputs(model, batch):
    return model(**batch)[..., [0, 2]]


def differences(model, batch):
    """Positions that see each other behind the head."""
    return model(**batch).sin().diff(dim=1)


@every_kind
@pytest.mark.parametrize(
    "outputs", [without_last, reversed_in_time, log_probabilities, some_outputs, differences]
)
def test_outputs_of_ones_own(outputs, rows):
    # Two outputs of log-probabilities are logits as good as any.
    source = source_of(seeded(Model), rows, outputs=outputs, divergence="half-reference-mse")
    assert source.plan is not None
    assert source.plan.found.head is None
    assert_right(source)


@every_kind
def test_outputs_that_are_a_models_logits(rows):
    class Wrapped(Model):
        def forward(self, input_ids):
            return {"logits": super().forward(input_ids)}

    source = source_of(seeded(Wrapped), rows, outputs=lambda model, batch: model(**batch)["logits"])
    assert source.plan is not None
    assert source.plan.found.head == "head"
    assert_right(source)


# The same numbers whenever they are asked for


@every_kind
def test_a_row_depends_on_no_other(rows):
    # Not on how many there are beside it, and not on their order.
    source = source_of(seeded(Model), rows)
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
        assert worst(source.gradients(asked).flat, gradients[at]) <= 1e-12


@every_kind
def test_no_graph_is_asked_of_the_caller(rows):
    # Evaluation runs without gradients; what is made there is the same, and has no graph.
    source = source_of(seeded(Model), rows)
    expected = whole(source)
    with torch.no_grad():
        assert torch.equal(whole(source), expected)
    assert not expected.requires_grad
    assert not source.outputs_at(source.rows(0, source.n_rows)).requires_grad


def test_causal_rows_by_hand():
    # f_t = w · Σ_{s ≤ t} x_s: the row at t has the gradient e_t Σ_{s ≤ t} x_s.
    class Sums(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(1, 1, bias=False).double()

        def forward(self, inputs):
            return self.layer(inputs).cumsum(1)

    source = GradientSource(
        Target(Sums()),
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
    model = seeded(Model)
    expected, found = (
        whole(source_of(model, rows, engine={"*": name})) for name in ("rule", engine)
    )
    assert worst(found, expected) <= 1e-10


@every_kind
def test_engines_mixed_within_a_model(rows):
    engines = {"table.*": "loop", "first.*.weight": "vmap", "norm.*": "replay", "*": "rule"}
    source = source_of(seeded(Model), rows, engine=engines)
    assert set(source.engines.values()) == {"loop", "vmap", "replay (norm)", "rule"}
    assert_right(source)


def test_vmap_over_every_token_is_chunked(monkeypatch):
    source = source_of(seeded(Model), "token", "head.bias", engine={"*": "vmap"})
    expected = whole(source)
    monkeypatch.setattr(module, "CHUNK_BUDGET", 3 * VOCABULARY * 8)
    assert worst(whole(source), expected) <= 1e-12


# Half precision


@every_kind
def test_a_half_precision_model_has_gradients_in_float32(rows):
    exact, half = (
        source_of(seeded(Model).to(dtype), rows, divergence="half-reference-mse")
        for dtype in (torch.float32, torch.bfloat16)
    )
    found = half.gradients(half.rows(0, half.n_rows))
    assert found.flat.dtype == torch.float32
    assert all(gradient.dtype == torch.float32 for gradient in found.dense().values())
    # bfloat16 has 8 bits: 0.4 % a number, a few times that through the layers.
    assert worst(found.flat, whole(exact)) <= 5e-2
