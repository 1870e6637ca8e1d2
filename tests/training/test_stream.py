"""How row gradients are made in pieces that fit memory, and that nothing depends on the pieces."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from subscape import Decomposition, GradientSource, Target, TrainingConfig, estimate
from subscape.gradients import DenseRowGradients
from subscape.gradients.micro_batches import MicroBatches
from subscape.gradients.one_pass import OnePass
from subscape.training import Trainer, stream, train
from subscape.training import trainer as trainer_module
from tests.training.conftest import SMALL, uniform_source

TINY = 1e-9
"""GiB: about one byte."""


# Steps made ahead


@pytest.fixture
def asked(monkeypatch):
    """Rows of every call for row gradients."""
    seen, original = [], GradientSource.gradients

    def gradients(self, rows, **options):
        seen.append(len(rows))
        return original(self, rows, **options)

    monkeypatch.setattr(GradientSource, "gradients", gradients)
    return seen


def test_steps_made_ahead_are_those_made_alone(planted, monkeypatch):
    monkeypatch.setattr(stream, "PREFETCH_STEPS", 4)
    made, source = Trainer([uniform_source(planted)], SMALL).stream, uniform_source(planted)
    for number in (0, 3, 4, 9, 2):
        alone = source.gradients(source.rows(number, 16)).flat
        torch.testing.assert_close(made.gradients(number).flat[0], alone)


def test_steps_ahead_keep_to_their_budget_and_to_the_run(planted, asked, monkeypatch):
    # 9 parameters × 8 bytes × 16 rows = 1,152 bytes a batch.
    monkeypatch.setattr(stream, "PREFETCH_BUDGET", 3 * 1152)
    made = Trainer([uniform_source(planted)], SMALL).stream
    for number in range(7):
        made.gradients(number)
    assert asked == [3 * 16] * 3
    short = Trainer([uniform_source(planted)], replace(SMALL, steps=5)).stream
    asked.clear()
    for number in range(5):
        short.gradients(number)
    assert asked == [3 * 16, 2 * 16]  # none beyond the last step


def test_a_source_trains_on_the_same_rows_whatever_is_beside_it(monkeypatch):
    # Room for 4 of 8 batches a block if the budget were shared by the two sources.
    monkeypatch.setattr(stream, "PREFETCH_BUDGET", 8 * 4 * 10 * 4)
    model = nn.Linear(4, 2)
    config = TrainingConfig(n_subnetworks=3, rank=1, steps=10, batch_size=4)

    def source(seed):
        generator = torch.Generator().manual_seed(seed)
        return GradientSource(Target(model), torch.randn(40, 4, generator=generator), seed=seed)

    alone, beside = Trainer([source(1)], config), Trainer([source(0), source(1)], config)
    for number in range(10):
        one, two = (made.stream.gradients(number).flat for made in (alone, beside))
        torch.testing.assert_close(one[0], two[1])


# The memory budget


@pytest.fixture
def passes(monkeypatch):
    """Samples of every pass over the model."""
    seen, original = [], OnePass.__init__

    def spy(self, target, found, choices, inputs, *args, **options):
        seen.append(len(inputs))
        original(self, target, found, choices, inputs, *args, **options)

    monkeypatch.setattr(OnePass, "__init__", spy)
    return seen


def wide_source():
    """Few parameters are decomposed, but a row takes much memory."""
    model = nn.Sequential(nn.Linear(4, 500), nn.Tanh(), nn.Linear(500, 3))
    return GradientSource(Target(model, "2.bias"), torch.randn(5000, 4), engine="rule")


WIDE = TrainingConfig(4, rank=1, batch_size=64, resample_every=1, dense_warmup=0.0, steps=100)


def test_steps_made_ahead_and_resampling_keep_to_the_memory_budget(passes):
    source = wide_source()
    found = estimate(source, WIDE)
    fitting = (found.directions + 150.5 * found.per_row) / 2**30
    for changes, size, most in (
        ({"memory_gib": TINY, "resample_every": 0}, 8, 8),
        ({"memory_gib": fitting}, 150, 144),  # whole groups of the 150 rows that fit
    ):
        made = Trainer([source], replace(WIDE, **changes))
        assert made.stream.micro_batch_size == size
        passes.clear()
        made.step()
        assert max(passes) == most


def test_what_a_setting_says_goes_before_the_memory_budget(words):
    assert Trainer([words()], replace(SMALL, batch_size=24)).stream.micro_batch_size > 24
    for n in (5, 16):
        config = replace(SMALL, batch_size=24, micro_batch_size=n)
        assert Trainer([words()], config).stream.micro_batch_size == n
    # A cached Jacobian is not cut.
    cached = Trainer([words("sample", engine="jacobian")], replace(SMALL, memory_gib=TINY))
    assert cached.stream.micro_batch_size is None


@pytest.mark.parametrize(("rows", "size"), [("sample", 8), ("sampled-token", 8), ("token", 24)])
def test_the_first_step_has_the_gradients_of_the_parts_together(words, rows, size):
    config = replace(SMALL, batch_size=48, dense_warmup=0.0)
    source = words(rows, n=60)
    cut, whole = Trainer([source], replace(config, memory_gib=TINY)), Trainer([source], config)
    parts = cut.stream.gradients(0)
    assert isinstance(parts, MicroBatches)
    assert list(parts.sizes) == [size] * (48 // size)
    cut.step()
    flat = source.gradients(source.rows(0, 48)).flat
    whole.dictionary(DenseRowGradients(flat, source.shapes)).loss.backward()
    for found, expected in zip(*(t.dictionary.parameters() for t in (cut, whole)), strict=True):
        assert expected.grad.abs().max() > 0
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-10, atol=1e-12)


# Whole runs

RUN = {"n_subnetworks": 6, "steps": 12, "batch_size": 128, "learning_rate": 0.05}
RUN |= {"resample_every": 3, "n_heldout_rows": 128}
CUTS = [
    *({"memory_gib": gib} for gib in (4.0, 1e-2, 1e-4, 2e-5)),
    *({"micro_batch_size": size} for size in (32, 256)),
]


@pytest.fixture
def seen(monkeypatch):
    """Place of every row whose gradient was made, with its partner's."""
    rows_seen: set[tuple[int, ...]] = set()
    original = GradientSource.gradients_over

    def gradients_over(self, draws):
        for rows in draws:
            pairs = torch.stack([rows.index, rows.index[rows.partner]], dim=1)
            rows_seen.update((self.seed, *pair) for pair in pairs.tolist())
        return original(self, draws)

    monkeypatch.setattr(GradientSource, "gradients_over", gradients_over)
    return rows_seen


@pytest.fixture
def resampled(monkeypatch):
    """Which subnetworks were replaced, resampling after resampling."""
    found, original = [], trainer_module.replacements

    def replacements(*args):
        new = original(*args)
        found.append(torch.stack([new.replica, new.subnetwork]))
        return new

    monkeypatch.setattr(trainer_module, "replacements", replacements)
    return found


@pytest.mark.parametrize(
    ("rows", "kind"), [("token", "jumprelu"), ("sample", "batch-top-k"), ("sample", "jumprelu")]
)
def test_a_run_is_the_same_under_every_memory_budget(
    words, rows, kind, seen, resampled, unchecked, monkeypatch
):
    monkeypatch.setattr(stream, "JUDGING_ROWS", 512)
    n = {"token": 40, "sample": 150}[rows]
    source, heldout = (words(rows, n=n, length=4, seed=seed) for seed in (0, 1))
    results: list[tuple[Decomposition, set, list, int | None]] = []
    for cut in CUTS:
        config = replace(SMALL, selection=kind, **RUN, **cut)
        seen.clear()
        resampled.clear()
        size = Trainer([source], config).stream.micro_batch_size
        results.append((train(source, heldout, config), set(seen), list(resampled), size))
    sizes = [size for *_, size in results]
    assert sizes[0] > 12 * 128  # all steps at once
    assert sizes[0] > sizes[1] > sizes[2] > 0
    assert sizes[3:] == [32 if rows == "token" else 8, 32, 256]
    first, first_rows, first_resampled, _ = results[0]
    assert len(first_rows) > 1000
    assert sum(one.shape[1] for one in first_resampled) >= 2
    for result, its_rows, its_resampled, _ in results[1:]:
        assert its_rows == first_rows
        assert all(map(torch.equal, its_resampled, first_resampled))
        for side in ("encoder", "decoder"):
            one, other = (getattr(d, side).weights for d in (result, first))
            torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)
        for figure in ("fvu", "fvu_row_by_row"):
            assert result.metrics[figure] == pytest.approx(first.metrics[figure], rel=1e-9)
