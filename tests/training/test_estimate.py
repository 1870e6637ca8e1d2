"""How batches are cut to a memory budget, and that training does not notice."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from subscape import Decomposition, GradientSource, Target, TrainingConfig
from subscape._io import read_tensors
from subscape.gradients import DenseRowGradients
from subscape.gradients.micro_batches import MicroBatches
from subscape.subnetworks.objective import reconstruct
from subscape.training import Trainer, train
from subscape.training import trainer as trainer_module
from subscape.training.decompose import prepare
from subscape.training.estimate import GIB, Estimate, estimate

N_SAMPLES, LENGTH, VOCABULARY = 40, 3, 7
TINY = 1e-9
"""GiB: about one byte."""
CONFIG = TrainingConfig(
    n_subnetworks=4,
    rank=2,
    active_fraction=0.25,
    steps=6,
    batch_size=24,
    learning_rate=0.05,
    warm_start=0.0,
    revive_every=2,
    n_restarts=2,
    n_heldout_rows=24,
    log_every=1,
    checkpoint_every=2,
)


class Words(nn.Module):
    """A small language model in which positions see those before."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.table, self.middle = nn.Embedding(VOCABULARY, width), nn.Linear(width, width)
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.middle(self.table(ids).cumsum(1))))


def source_of(rows: str = "token", *, width: int = 4, seed: int = 0, **options: Any):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Words(width).double()
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, VOCABULARY, (N_SAMPLES, LENGTH), generator=generator)
    given = {"divergence": "kl", "engine": {"*": "auto"}} | options
    return GradientSource(Target(model), ids, rows=rows, seed=seed, **given)


def gib_for(source: GradientSource, n_rows: int) -> float:
    """The memory at which that many rows fit."""
    found = estimate(source, CONFIG)
    return (found.directions + found.per_row * (n_rows + 0.5)) / GIB


every_kind = pytest.mark.parametrize("rows", ["sample", "token", "every-token"])


# The estimate


@every_kind
def test_the_batch_is_made_at_once_where_memory_is_ample(rows: str):
    found = estimate(source_of(rows), CONFIG)
    assert found.rows_at_once == found.batch_size == 24
    assert found.n_micro_batches == 1
    assert "micro-batches" not in str(found)


@every_kind
@pytest.mark.parametrize("n", [7, 12, 23])
def test_as_many_rows_are_made_at_once_as_fit(rows: str, n: int):
    source = source_of(rows)
    found = estimate(source, replace(CONFIG, memory_gib=gib_for(source, n)))
    n -= n % source.rows_per_sample  # whole sequences
    assert found.rows_at_once == n
    assert found.n_micro_batches == {6: 4, 7: 4, 12: 2, 21: 2, 23: 2}[n]
    assert str(found).endswith(f"steps of 24 rows in {found.n_micro_batches} micro-batches")
    assert f" {n} rows " in str(found)


@pytest.mark.parametrize(("rows", "least"), [("sample", 2), ("token", 2), ("every-token", 6)])
def test_two_samples_are_made_at_once_however_little_memory_there_is(rows: str, least: int):
    # A reference is the output of another row.
    found = estimate(source_of(rows), replace(CONFIG, memory_gib=TINY))
    assert found.rows_at_once == least
    assert found.n_micro_batches == 24 // least


def test_never_more_rows_than_the_batch():
    found = estimate(source_of("every-token"), replace(CONFIG, batch_size=3, memory_gib=TINY))
    assert found.rows_at_once == 3
    assert found.n_micro_batches == 1


def test_parts_by_hand():
    # Words of width 4: 7 · 4 + (16 + 4) + (28 + 7) = 83 numbers of 8 bytes. A direction of rank 2:
    # table (4 + 14 + 8), middle (4 + 8 + 8) + 4, head (4 + 14 + 8) + 7 = 83 numbers as well; 8 of them,
    # kept in eight copies (two stacks, each with its gradient and two moments).
    found = estimate(source_of(), CONFIG)
    assert found.model == 83 * 8
    assert found.subnetworks == 8 * 8 * 83 * 8
    # Six of everything: inner products of 2 by 2 terms with the 4 directions of a restart, for three
    # matrices, and 4 + 7 numbers of the vectors in full.
    assert found.directions == 6 * 8 * (3 * 4 * 2**2 + 4 + 7) * 8
    assert found.total == found.model + found.subnetworks + found.directions + 24 * found.per_row


def test_the_text_by_hand():
    found = Estimate(
        model=GIB,
        subnetworks=2 * GIB,
        directions=GIB // 2,
        per_row=GIB // 4,
        rows_within=6,
        batch_size=15,
    )
    assert found.n_micro_batches == 3
    assert str(found) == (
        "about 5.00 GiB (model 1.00, subnetworks 2.00, directions 0.50, 6 rows 1.50); "
        "steps of 15 rows in 3 micro-batches"
    )


def test_the_summary_of_a_run_says_what_it_takes():
    source = source_of()
    prepared = prepare(
        source.target, source.data, rows="token", divergence="kl", config=CONFIG, memory_gib=TINY
    )
    assert prepared.summary().splitlines()[-1].startswith("memory: about 0.00 GiB (model 0.00, ")
    assert prepared.summary().endswith("steps of 24 rows in 12 micro-batches")


def test_more_restarts_and_wider_models_take_more():
    base = estimate(source_of(), CONFIG)
    restarts = estimate(source_of(), replace(CONFIG, n_restarts=4))
    assert restarts.subnetworks == 2 * base.subnetworks
    assert restarts.directions == 2 * base.directions
    assert restarts.model == base.model
    assert estimate(source_of(width=16), CONFIG).per_row > 2 * base.per_row


# What a row takes


@every_kind
def test_memory_by_parameter(rows: str):
    use = source_of(rows).memory()
    assert use is not None
    # A row of the table per position; a product per position before the head, and one behind it.
    n_terms = {"sample": 3, "token": 1, "every-token": 1}[rows]
    assert dict(use.terms) == {
        "table.weight": 0,
        "middle.weight": 3,
        "middle.bias": 0,
        "head.weight": n_terms,
        "head.bias": 0,
    }
    assert use.per_row == use.graph + use.outputs
    # Five copies of a row's logits.
    assert use.outputs == 20 * VOCABULARY * (LENGTH if rows == "sample" else 1)


def test_the_graph_of_a_linear_layer_by_hand():
    # Of a sample: inputs (10 numbers); outputs and the copy that is handed on (3 each).
    source = GradientSource(
        Target(nn.Linear(10, 3)), torch.randn(5, 10), engine="rule", divergence="mse"
    )
    use = source.memory()
    assert use is not None
    assert use.graph % 4 == 0
    assert 10 + 3 <= use.graph // 4 <= 10 + 4 * 3


def test_longer_chains_keep_more():
    def graph(n_layers: int) -> int:
        layers = [nn.Sequential(nn.Linear(16, 16), nn.Tanh()) for _ in range(n_layers)]
        target = Target(nn.Sequential(*layers), "0.0")
        use = GradientSource(target, torch.randn(5, 16), engine="rule").memory()
        assert use is not None
        return use.graph

    # Every layer more keeps the same: at least the tanh's output.
    more = graph(3) - graph(2)
    assert more >= 16 * 4
    assert graph(6) == graph(3) + 3 * more


def test_a_cached_jacobian_is_not_measured():
    source = source_of("sample", engine="jacobian")
    assert source.memory() is None
    # A row is its gradient in full.
    assert estimate(source, CONFIG).per_row == 83 * 8


@every_kind
def test_the_estimate_leaves_the_model_as_it_was(rows: str):
    source = source_of(rows)
    model = source.target.model
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    first = estimate(source, CONFIG)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert estimate(source, CONFIG) == first == estimate(source_of(rows), CONFIG)


# Training in micro-batches


@pytest.fixture
def step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets as small as these are otherwise given the gradients of many steps at a time."""
    monkeypatch.setattr(trainer_module, "PREFETCH_STEPS", 1)


@every_kind
@pytest.mark.usefixtures("step_by_step")
def test_the_first_step_has_the_gradients_of_the_parts_together(rows: str):
    config = replace(CONFIG, memory_gib=TINY)
    cut, whole = Trainer([source_of(rows)], config), Trainer([source_of(rows)], config)
    cut.step()
    parts = whole.gradients(0)
    assert isinstance(parts, MicroBatches)
    assert list(parts.sizes) == ([6] * 4 if rows == "every-token" else [2] * 12)
    flat = torch.cat([make().flat for make in parts.makers])
    together = DenseRowGradients(flat, whole.sources[0].shapes)
    encoder, decoder = whole.encoder.select(0), whole.decoder.select(0)
    reconstruct(together, encoder, decoder, 0.25).fvu.sum().backward()
    for found, expected in (
        (cut.encoder_weights.grad, whole.encoder_weights.grad),
        (cut.decoder_weights.grad, whole.decoder_weights.grad),
    ):
        assert expected is not None
        assert expected.abs().max() > 0
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_an_ample_budget_is_no_budget():
    assert Trainer([source_of()], CONFIG).at_once is None
    cut = Trainer([source_of()], replace(CONFIG, memory_gib=TINY))
    assert cut.at_once == 2
    assert Trainer([source_of("sample", engine="jacobian")], cut.config).at_once is None


def run(folder: Path | None = None, rows: str = "token", n_fitting: int = 4) -> Decomposition:
    """Steps of 12 rows, of which some fit into memory: by default in 3 parts, of sequences in 2."""
    source, heldout = source_of(rows), source_of(rows, seed=1)
    memory = gib_for(source, n_fitting)
    config = replace(CONFIG, batch_size=12, steps=4, n_heldout_rows=12, memory_gib=memory)
    return train(source, heldout, config, folder=folder)


def assert_same(one: Decomposition, other: Decomposition) -> None:
    assert torch.equal(one.encoder.weights, other.encoder.weights)
    assert torch.equal(one.decoder.weights, other.decoder.weights)
    assert one.threshold == other.threshold
    assert one.metrics | {"seconds": 0} == other.metrics | {"seconds": 0}


@every_kind
@pytest.mark.usefixtures("step_by_step")
def test_a_run_in_micro_batches_is_the_same_every_time(rows: str):
    one = run(rows=rows)
    assert_same(one, run(rows=rows))
    # It is no run in one piece: references are drawn within micro-batches.
    assert not torch.equal(one.decoder.weights, run(rows=rows, n_fitting=12).decoder.weights)


class Interrupted(Exception):
    """Stands for whatever ends a process."""


def interrupt_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    original = Trainer.step

    def step(self: Trainer):
        if self.step_number == steps:
            raise Interrupted
        return original(self)

    monkeypatch.setattr(Trainer, "step", step)


@pytest.mark.parametrize("steps", [1, 3], ids=lambda s: f"after {s} steps")
@pytest.mark.parametrize("rows", ["token", "every-token"])
@pytest.mark.usefixtures("step_by_step")
def test_a_run_in_micro_batches_is_resumed_to_the_bit(
    tmp_path: Path, rows: str, steps: int, monkeypatch: pytest.MonkeyPatch
):
    whole = run(tmp_path / "whole", rows)
    with monkeypatch.context() as patch:
        interrupt_after(patch, steps)
        with pytest.raises(Interrupted):
            run(tmp_path / "cut", rows)
    assert_same(whole, run(tmp_path / "cut", rows))
    names = ("whole", "cut")
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in names]
    assert lines[0] == lines[1]
    states = [read_tensors(tmp_path / name / "checkpoint.safetensors") for name in names]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


@pytest.mark.parametrize(("first", "second"), [(4, 12), (12, 4), (5, 6)])
def test_a_run_with_other_micro_batches_is_refused(tmp_path: Path, first: int, second: int):
    run(tmp_path, n_fitting=first)
    before = (tmp_path / "metrics.jsonl").read_text()
    with pytest.raises(ValueError, match=r"^rows_at_once: expected .*; got .*own settings"):
        run(tmp_path, n_fitting=second)
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_another_budget_with_the_same_micro_batches_goes_on(tmp_path: Path):
    first = run(tmp_path, n_fitting=1000)
    assert_same(first, run(tmp_path, n_fitting=2000))


def test_a_run_with_other_batches_made_together_is_refused(tmp_path: Path):
    # Both budgets hold a step whole, but not as many steps made ahead: other references are drawn.
    run(tmp_path, n_fitting=12)
    with pytest.raises(ValueError, match=r"^batches_within: expected 1.*; got 8.*memory_gib"):
        run(tmp_path, n_fitting=100)
