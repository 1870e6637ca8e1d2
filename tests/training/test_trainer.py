from dataclasses import replace

import pytest
import torch

from subscape.gradients import DenseRowGradients
from subscape.lowrank import Stack
from subscape.subnetworks import SELECTIONS, dense_error
from subscape.subnetworks.selection import largest
from subscape.training import Trainer
from tests.training.conftest import SMALL, uniform_source

CONFIG = replace(SMALL, learning_rate=0.02, dense_warmup=0.1, resample_every=10, n_restarts=3)


def trainer_of(*planted, **changes):
    sources = [uniform_source(p, seed) for seed, p in enumerate(planted)]
    return Trainer(sources, replace(CONFIG, **changes))


EVERY = pytest.mark.parametrize("kind", list(SELECTIONS))

# One step


def test_the_start_is_unit_random_and_equal_on_both_sides(planted):
    made = trainer_of(planted).dictionary
    assert torch.equal(made.encoder.weights, made.decoder.weights)
    norms = made.decoder.flat().norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones(1, 3, 5).double())
    assert not torch.equal(made.decoder.weights[0, 0], made.decoder.weights[0, 1])


@EVERY
def test_decoder_rows_are_unit_after_every_step_and_encoder_rows_are_free(planted, kind):
    made = trainer_of(planted, selection=kind)
    one = torch.ones(1, 3, 5).double()
    for _ in range(25):  # over the dense warm-up and two resamplings
        made.step()
        norms = made.dictionary.decoder.flat().norm(dim=-1)
        torch.testing.assert_close(norms, one, rtol=1e-12, atol=1e-12)
    assert (made.dictionary.encoder.flat().norm(dim=-1) - 1).abs().max() > 0.01


def test_a_step_is_adam_on_the_fvu_then_unit_rows(planted):
    made = trainer_of(planted, dense_warmup=0.0, schedule="constant")
    start = made.dictionary.decoder_weights.detach().clone()
    flat = made.stream.gradients(0).flat[0]
    gradients = DenseRowGradients(flat, made.sources[0].shapes)
    sides = [start[0].clone().requires_grad_(True) for _ in range(2)]
    encoder, decoder = (Stack(made.dictionary.layout, w) for w in sides)
    coefficients = gradients.inner(encoder)
    kept = coefficients * largest(coefficients.detach(), 16)  # one of five in each of 16 rows
    fvu = dense_error(gradients, kept, decoder) / flat.square().sum()
    found = made.step()
    torch.testing.assert_close(found.fvu[0], fvu)
    fvu.sum().backward()
    # Adam's first step is lr · g / (|g| + eps), whatever the size of g.
    moved = [w.detach() - 0.02 * w.grad / (w.grad.abs() + 1e-8) for w in sides]
    weights = made.dictionary.encoder_weights[0]
    torch.testing.assert_close(weights, moved[0], rtol=1e-9, atol=1e-9)
    free = Stack(made.dictionary.layout, moved[1]).flat()
    expected = free / free.norm(dim=-1, keepdim=True)
    unit = made.dictionary.decoder.flat()[0]
    torch.testing.assert_close(unit, expected, rtol=1e-8, atol=1e-8)


@EVERY
def test_all_coefficients_count_during_the_dense_warm_up_only(planted, kind):
    made = trainer_of(planted, selection=kind)
    batches = [made.step() for _ in range(5)]
    shares = [(batch.codes != 0).double().mean().item() for batch in batches]
    # The first batch with a selection: thresholds begin where batch top-k cuts.
    assert shares == pytest.approx([1.0] * 4 + [0.2])
    assert all(batch.penalty is None for batch in batches[:4])


def test_the_step_size_follows_the_schedule(planted):
    made = trainer_of(planted, resample_every=0, steps=2)
    made.step()
    between = made.dictionary.encoder_weights.detach().clone()
    made.step()  # at step 1 of 2 the cosine is at half
    assert made.optimiser.param_groups[0]["lr"] == pytest.approx(0.01)
    assert not torch.equal(made.dictionary.encoder_weights, between)


@EVERY
def test_restarts_side_by_side_are_those_trained_alone(planted, kind):
    settings = {"resample_every": 0, "selection": kind}
    made = trainer_of(planted, **settings)
    alone = [trainer_of(planted, n_restarts=1, **settings) for _ in range(3)]
    for restart, one in enumerate(alone):
        state = made.dictionary.state_dict()
        one.dictionary.load_state_dict({k: v[:, restart : restart + 1] for k, v in state.items()})
    for _ in range(20):
        made.step()
        for one in alone:
            one.step()
    for restart, one in enumerate(alone):
        for name, values in one.dictionary.state_dict().items():
            together = made.dictionary.state_dict()[name][:, restart : restart + 1]
            torch.testing.assert_close(together, values, rtol=1e-7, atol=1e-9)


@EVERY
def test_targets_side_by_side_are_those_trained_alone(make_planted, kind):
    made = trainer_of(make_planted(0), make_planted(1), selection=kind)
    # With resampling: it too looks at its own target only.
    alone = [Trainer([source], made.config) for source in made.sources]
    for _ in range(21):
        made.step()
        for one in alone:
            one.step()
    for index, one in enumerate(alone):
        for name, values in one.dictionary.state_dict().items():
            together = made.dictionary.state_dict()[name][index]
            torch.testing.assert_close(together, values[0], rtol=1e-7, atol=1e-9)
    weights = made.dictionary.decoder_weights
    assert not torch.equal(weights[0], weights[1])


@EVERY
@pytest.mark.parametrize("n_done", [2, 13], ids=["in the warm-up", "later"])
def test_a_trainer_goes_on_from_the_state_of_another(planted, kind, n_done):
    one = trainer_of(planted, selection=kind)
    for _ in range(n_done):
        one.step()
    state = {name: tensor.clone() for name, tensor in one.state().items()}
    other = trainer_of(planted, selection=kind)
    other.load_state(state)
    assert other.step_number == n_done
    for _ in range(10):
        one.step()
        with torch.no_grad():  # steps are taken there too
            other.step()
    assert one.state().keys() == other.state().keys()
    for name, tensor in one.state().items():
        assert torch.equal(tensor, other.state()[name]), name
    name = "dictionary.encoder_weights"
    assert not torch.equal(one.state()[name], state[name])


def test_the_state_holds_all_that_the_optimiser_says_is_its_own(planted):
    made = trainer_of(planted, selection="jumprelu")
    for _ in range(6):
        made.step()
    moments = {
        f"optimiser.{number}.{key}": values
        for number, of_one in made.optimiser.state_dict()["state"].items()
        for key, values in of_one.items()
    }
    assert len(moments) == 3 * 3  # exp_avg, exp_avg_sq and step of both sides and the thresholds
    state = made.state()
    assert all(state[name] is values for name, values in moments.items())
    assert len(state) == len(moments) + 3 + 1
