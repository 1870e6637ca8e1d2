"""What a run will take, and how many rows of a batch are made at once for it."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from subscape import GradientSource, Target, TrainingConfig
from subscape.gradients.memory import Passing
from subscape.training.decompose import prepare
from subscape.training.estimate import GIB, Estimate, estimate

TINY = 1e-9
"""GiB: about one byte."""
CONFIG = TrainingConfig(4, rank=2, l0=1.0, batch_size=48, n_restarts=2)


def gib_for(source, n_rows):
    """The memory at which that many rows fit."""
    found = estimate(source, CONFIG)
    return (found.directions + found.per_row * (n_rows + 0.5)) / GIB


every_kind = pytest.mark.parametrize("rows", ["sample", "sampled-token", "token"])


@every_kind
def test_as_many_rows_are_made_at_once_as_fit(words, rows):
    source = words(rows)
    ample = estimate(source, CONFIG)
    assert (ample.micro_batch_size, ample.n_micro_batches) == (48, 1)
    assert "micro-batches" not in str(ample)
    for n in (24, 25, 47):
        found = estimate(source, replace(CONFIG, memory_gib=gib_for(source, n)))
        assert (found.micro_batch_size, found.rows_within, found.n_micro_batches) == (n, n, 2)
        assert str(found).endswith("steps of 48 rows in 2 micro-batches")
        assert f" {n} rows " in str(found)


@pytest.mark.parametrize(
    ("rows", "size", "least"),
    # A group is never cut, and there are never more rows than those of the batch.
    [("sample", 48, 8), ("sampled-token", 48, 8), ("token", 48, 24), ("token", 3, 3)],
)
def test_however_little_memory_there_is(words, rows, size, least):
    found = estimate(words(rows), replace(CONFIG, batch_size=size, memory_gib=TINY))
    assert (found.micro_batch_size, found.n_micro_batches) == (least, size // least)


def test_parts_by_hand(words):
    # Words of width 4: 7 · 4 + (16 + 4) + (28 + 7) = 83 numbers of 8 bytes. A direction of rank 2:
    # table (4 + 14 + 8), middle (4 + 8 + 8) + 4, head (4 + 14 + 8) + 7 = 83 numbers as well; 8 of them,
    # kept in eight copies (two stacks, each with its gradient and two moments).
    found = estimate(words("sampled-token"), CONFIG)
    assert found.model == 83 * 8
    assert found.subnetworks == 8 * 8 * 83 * 8
    # Six of everything: inner products of 2 by 2 terms with the 4 directions of a restart, for three
    # matrices, and 4 + 7 numbers of the vectors in full.
    assert found.directions == 6 * 8 * (3 * 4 * 2**2 + 4 + 7) * 8
    assert found.total == found.model + found.subnetworks + found.directions + 48 * found.per_row


def test_the_text_by_hand():
    parts = {"model": GIB, "subnetworks": 2 * GIB, "directions": GIB // 2, "per_row": GIB // 4}
    found = Estimate(**parts, rows_within=6, batch_size=15)
    assert found.n_micro_batches == 3
    assert str(found) == (
        "about 5.00 GiB (model 1.00, subnetworks 2.00, directions 0.50, 6 rows 1.50); "
        "steps of 15 rows in 3 micro-batches"
    )


def test_the_summary_of_a_run_says_what_it_takes():
    data = torch.randn(100, 4)
    prepared = prepare(nn.Linear(4, 3), data, engine="rule", config=CONFIG, memory_gib=TINY)
    assert prepared.summary().splitlines()[-1].startswith("memory: about 0.00 GiB (model 0.00, ")
    assert prepared.summary().endswith("steps of 48 rows in 6 micro-batches")


def test_more_restarts_and_wider_models_take_more(words):
    base = estimate(words("sampled-token"), CONFIG)
    restarts = estimate(words("sampled-token"), replace(CONFIG, n_restarts=4))
    assert restarts.subnetworks == 2 * base.subnetworks
    assert restarts.directions == 2 * base.directions
    assert restarts.model == base.model
    assert estimate(words("sampled-token", width=16), CONFIG).per_row > 2 * base.per_row


@every_kind
def test_memory_by_parameter(words, rows):
    use = words(rows).memory
    # A row of the table per position; a product per position before the head, and one behind it.
    n_terms = {"sample": 3, "sampled-token": 1, "token": 1}[rows]
    terms = dict.fromkeys(("table.weight", "middle.bias", "head.bias"), 0)
    assert dict(use.terms) == terms | {"middle.weight": 3, "head.weight": n_terms}
    assert use.per_row == use.graph + use.outputs + use.temporaries
    # Five copies of a row's logits.
    assert use.outputs == 5 * 8 * 7 * (3 if rows == "sample" else 1)


def test_the_graph_of_a_linear_layer_by_hand():
    # Of a sample: inputs (10 numbers); outputs and the copy that is handed on (3 each).
    source = GradientSource(
        Target(nn.Linear(10, 3)), torch.randn(5, 10), engine="rule", divergence="mse"
    )
    use = source.memory
    assert use.graph % 4 == 0
    assert 10 + 3 <= use.graph // 4 <= 10 + 4 * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_patches_of_a_convolution_are_counted_in_their_dtype(dtype):
    # A patch of 2 · 9 numbers at each of 25 places; beside it the padded input, 2 · 49, and the outputs'
    # gradients, 3 · 25.
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Flatten()).to(dtype)
    source = GradientSource(Target(model), torch.randn(5, 2, 5, 5).to(dtype), engine="rule")
    entries = source.memory.temporaries / dtype.itemsize
    assert 18 * 25 <= entries <= 18 * 25 + 2 * 49 + 3 * 25


def test_what_passes_is_the_peak_above_what_is_left():
    with Passing() as passing:
        kept = torch.ones(10)
        _ = (kept + 1).sum()  # ten numbers more for a while, and one
        del _
        kept = kept[:5]  # no storage of its own
    assert passing.bytes == 4 * 11
    assert len(kept) == 5


def test_longer_chains_keep_more():
    def graph(n_layers):
        layers = [nn.Sequential(nn.Linear(16, 16), nn.Tanh()) for _ in range(n_layers)]
        target = Target(nn.Sequential(*layers), "0.0")
        use = GradientSource(target, torch.randn(5, 16), engine="rule").memory
        return use.graph

    # Every layer more keeps the same: at least the tanh's output.
    more = graph(3) - graph(2)
    assert more >= 16 * 4
    assert graph(6) == graph(3) + 3 * more


def test_a_cached_jacobian_is_not_measured(words):
    source = words("sample", engine="jacobian")
    assert source.memory is None
    # A row is its gradient in full.
    assert estimate(source, CONFIG).per_row == 83 * 8


@every_kind
def test_the_estimate_leaves_the_model_as_it_was(words, rows):
    source = words(rows)
    model = source.target.model
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    first = estimate(source, CONFIG)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert estimate(source, CONFIG) == first == estimate(words(rows), CONFIG)
