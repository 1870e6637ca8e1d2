from dataclasses import replace

import pytest
import torch
from torch import nn

from subscape import GradientSource, Target, TrainingConfig, estimate
from subscape.gradients import DenseRowGradients
from subscape.gradients.one_pass import OnePass
from subscape.lowrank import Stack
from subscape.subnetworks import dense_error, reconstruct
from subscape.training import Trainer
from subscape.training import trainer as trainer_module

CONFIG = TrainingConfig(
    n_subnetworks=5,
    rank=1,
    active_fraction=0.2,
    steps=40,
    batch_size=16,
    learning_rate=0.02,
    warm_start=0.1,
    revive_every=10,
    n_restarts=3,
)


def source_of(planted, seed: int = 0) -> GradientSource:
    return GradientSource(Target(planted.model), planted.data, reference="uniform", seed=seed)


# One step


def test_the_start_is_unit_random_and_equal_on_both_sides(planted):
    made = Trainer([source_of(planted)], CONFIG)
    assert torch.equal(made.encoder.weights, made.decoder.weights)
    norms = made.decoder.flat().norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones(1, 3, 5).double())
    assert not torch.equal(made.decoder.weights[0, 0], made.decoder.weights[0, 1])


def test_decoder_rows_are_unit_after_every_step_and_encoder_rows_are_free(planted):
    made = Trainer([source_of(planted)], CONFIG)
    one = torch.ones(1, 3, 5).double()
    for _ in range(25):  # over warm start and two revivals
        made.step()
        torch.testing.assert_close(made.decoder.flat().norm(dim=-1), one, rtol=1e-12, atol=1e-12)
    assert (made.encoder.flat().norm(dim=-1) - 1).abs().max() > 0.01


def test_a_step_is_adam_on_the_fvu_then_unit_rows(planted):
    made = Trainer([source_of(planted)], replace(CONFIG, warm_start=0.0, schedule="constant"))
    start = made.decoder.weights.detach().clone()
    flat = made.gradients(0).flat[0]
    gradients = DenseRowGradients(flat, made.sources[0].shapes)
    sides = [start[0].clone().requires_grad_(True) for _ in range(2)]
    encoder, decoder = (Stack(made.layout, w) for w in sides)
    active = reconstruct(gradients, encoder, decoder, 0.2).active
    kept = gradients.inner(encoder) * active
    fvu = dense_error(gradients, kept, decoder) / flat.square().sum()
    found = made.step()
    torch.testing.assert_close(found.fvu[0], fvu)
    fvu.sum().backward()
    # Adam's first step is lr · g / (|g| + eps), whatever the size of g.
    moved = [w.detach() - 0.02 * w.grad / (w.grad.abs() + 1e-8) for w in sides]
    torch.testing.assert_close(made.encoder.weights[0], moved[0], rtol=1e-9, atol=1e-9)
    free = Stack(made.layout, moved[1]).flat()
    expected = free / free.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(made.decoder.flat()[0], expected, rtol=1e-8, atol=1e-8)


def test_all_coefficients_count_during_the_warm_start_only(planted):
    made = Trainer([source_of(planted)], replace(CONFIG, warm_start=0.1))
    shares = [made.step().active.double().mean().item() for _ in range(6)]
    assert shares == pytest.approx([1.0] * 4 + [0.2] * 2)


def test_the_step_size_follows_the_schedule(planted):
    made = Trainer([source_of(planted)], replace(CONFIG, revive_every=0, steps=2))
    made.step()
    between = made.encoder.weights.detach().clone()
    made.step()  # at step 1 of 2 the cosine is at half
    assert made.optimiser.param_groups[0]["lr"] == pytest.approx(0.01)
    assert not torch.equal(made.encoder.weights, between)


def test_steps_are_taken_under_no_grad_too(planted):
    one, other = (Trainer([source_of(planted)], CONFIG) for _ in range(2))
    one.step()
    with torch.no_grad():
        other.step()
    assert torch.equal(one.encoder.weights, other.encoder.weights)


# What does not influence what


def single(made: Trainer, source: int, restart: int, seed: int, planted) -> Trainer:
    """A trainer with one restart only, started where that restart of `made` starts."""
    alone = Trainer([source_of(planted, seed)], replace(CONFIG, n_restarts=1, revive_every=0))
    with torch.no_grad():
        for side in ("encoder_weights", "decoder_weights"):
            start = getattr(made, side)[source, restart]
            getattr(alone, side).copy_(start[None, None])
    return alone


def test_restarts_side_by_side_are_those_trained_alone(planted):
    made = Trainer([source_of(planted)], replace(CONFIG, revive_every=0))
    alone = [single(made, 0, restart, 0, planted) for restart in range(3)]
    for _ in range(20):
        made.step()
        for one in alone:
            one.step()
    for restart, one in enumerate(alone):
        torch.testing.assert_close(
            made.decoder.weights[0, restart], one.decoder.weights[0, 0], rtol=1e-7, atol=1e-9
        )


def test_targets_side_by_side_are_those_trained_alone(make_planted):
    planted = [make_planted(0), make_planted(1)]
    sources = [source_of(p, seed) for seed, p in enumerate(planted)]
    made = Trainer(sources, CONFIG)
    # With revivals: they too look at their own target only.
    alone = [Trainer([source_of(p, seed)], CONFIG) for seed, p in enumerate(planted)]
    for _ in range(21):
        made.step()
        for one in alone:
            one.step()
    for index, one in enumerate(alone):
        torch.testing.assert_close(
            made.decoder.weights[index], one.decoder.weights[0], rtol=1e-7, atol=1e-9
        )
    assert not torch.equal(made.decoder.weights[0], made.decoder.weights[1])


# Rows made ahead


def test_blocks_hold_the_batches_in_order(planted, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trainer_module, "PREFETCH_STEPS", 4)
    made = Trainer([source_of(planted)], CONFIG)
    source = source_of(planted)
    for number in (0, 3, 4, 9, 2):
        first = number // 4 * 4
        block = source.gradients(source.block(first, 4, 16)).flat
        at = number - first
        assert torch.equal(made.gradients(number).flat[0], block[at * 16 : (at + 1) * 16])


def test_blocks_keep_to_their_budget(planted, monkeypatch: pytest.MonkeyPatch):
    asked = []

    class Spy(GradientSource):
        def block(self, first: int, count: int, size: int):
            asked.append((first, count))
            return super().block(first, count, size)

    # 9 parameters × 8 bytes × 16 rows = 1,152 bytes a batch.
    monkeypatch.setattr(trainer_module, "PREFETCH_BUDGET", 3 * 1152)
    made = Trainer([Spy(Target(planted.model), planted.data, reference="uniform")], CONFIG)
    for number in range(7):
        made.gradients(number)
    assert asked == [(0, 3), (3, 3), (6, 3)]


# State


def test_a_trainer_goes_on_from_the_state_of_another(planted):
    one = Trainer([source_of(planted)], CONFIG)
    for _ in range(13):
        one.step()
    state = {name: tensor.clone() for name, tensor in one.state().items()}
    other = Trainer([source_of(planted)], CONFIG)
    other.load_state(state)
    assert other.step_number == 13
    for _ in range(10):
        one.step()
        other.step()
    for name, tensor in one.state().items():
        assert torch.equal(tensor, other.state()[name]), name
    assert not torch.equal(one.state()["encoder"], state["encoder"])


def test_a_source_trains_on_the_same_rows_whatever_is_beside_it(monkeypatch):
    # Room for 4 of 8 batches a block if the budget were shared by the two sources.
    monkeypatch.setattr("subscape.training.trainer.PREFETCH_BUDGET", 8 * 4 * 10 * 4)
    model = torch.nn.Linear(4, 2)
    config = TrainingConfig(n_subnetworks=3, rank=1, steps=10, batch_size=4)

    def source(seed):
        generator = torch.Generator().manual_seed(seed)
        return GradientSource(Target(model), torch.randn(40, 4, generator=generator), seed=seed)

    alone, beside = Trainer([source(1)], config), Trainer([source(0), source(1)], config)
    for number in range(10):
        torch.testing.assert_close(
            alone.gradients(number).flat[0], beside.gradients(number).flat[1]
        )


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Samples of every pass over the model."""
    seen, original = [], OnePass.__init__

    def spy(self, target, found, choices, inputs, *args, **options) -> None:
        seen.append(len(inputs))
        original(self, target, found, choices, inputs, *args, **options)

    monkeypatch.setattr(OnePass, "__init__", spy)
    return seen


def wide_source() -> GradientSource:
    """Few parameters are decomposed, but a row takes much memory."""
    model = nn.Sequential(nn.Linear(4, 500), nn.Tanh(), nn.Linear(500, 3))
    return GradientSource(Target(model, "2.bias"), torch.randn(5000, 4), engine="rule")


WIDE = TrainingConfig(n_subnetworks=4, rank=1, batch_size=64, revive_every=1, warm_start=0.0)


def test_steps_made_ahead_keep_to_the_memory_budget(passes: list[int]):
    made = Trainer([wide_source()], replace(WIDE, memory_gib=1e-9, revive_every=0))
    passes.clear()
    made.step()
    assert max(passes) == made.at_once == 2


def test_revival_keeps_to_the_memory_budget(passes: list[int]):
    source = wide_source()
    found = estimate(source, WIDE)
    room = (found.directions + 150 * found.per_row) / 2**30
    made = Trainer([source], replace(WIDE, memory_gib=room))
    assert made.at_once is None
    passes.clear()
    made.step()
    assert max(passes) == 128  # two batches, of the 150 rows that fit
