from dataclasses import replace

import pytest
import torch

from subscape.toys import TOYS, SparseInputs, ToyTraining, squared, tmcs, tms, tms_parallel
from subscape.toys.recipe import Recipe
from subscape.toys.training import train_many

SHORT = ToyTraining(n_steps=20, n_samples=256, n_candidates=2)


def test_tms_represents_every_feature(trained):
    for toy in trained:
        assert toy.all_represented
        # Measured over 100 seeds: single loss at most 0.063, loss at most 0.0086.
        assert toy.single_loss.max() < 0.1
        assert toy.final_loss < 0.01


def test_tms_is_tied_in_value_and_untied_in_parameters(trained):
    model = trained[0].model
    assert [name for name, _ in model.named_parameters()] == ["W_in", "W_out", "bias"]
    assert torch.equal(model.W_out, model.W_in.mT)
    assert model.W_out.data_ptr() != model.W_in.data_ptr()
    assert all(p.requires_grad for p in model.parameters())
    assert not model.training


@pytest.mark.parametrize("name", TOYS)
def test_every_toy_is_what_its_sampler_says_whatever_seeds_are_beside_it(name):
    (toy,) = TOYS[name]([7], training=SHORT)
    x = toy.sample(32, torch.Generator().manual_seed(0))
    assert x.shape == (32, toy.n_inputs)
    assert toy.model(x).shape == x.shape
    assert toy.represented.shape == toy.single_loss.shape == (toy.n_groups,)
    assert toy.seed == 7
    assert (toy.mixing is not None) == (name in ("tmcs", "high-rank"))
    if toy.mixing is not None:
        assert toy.mixing.min() >= 0
        assert 2 < toy.mixing.max() <= 3
    beside = TOYS[name]([3, 7, 11], training=SHORT)[1]
    for mine, other in zip(toy.model.parameters(), beside.model.parameters(), strict=True):
        # Batched products may round differently by batch size, nothing more.
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-3)
    assert toy.final_loss == pytest.approx(beside.final_loss, rel=1e-3)


def test_training_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    for builder in TOYS.values():
        builder([0], training=ToyTraining(n_steps=1, n_samples=128, n_candidates=1))
    assert torch.equal(state, torch.get_rng_state())


def test_more_candidates_never_lose_a_feature():
    few, many = (
        tms.many(range(4), training=ToyTraining(n_steps=100, n_candidates=n)) for n in (1, 4)
    )
    for a, b in zip(few, many, strict=True):
        assert b.represented.sum() >= a.represented.sum()


def test_parallel_copies_are_the_blocks_of_one_network():
    block = tms(2, training=SHORT)
    toy = tms_parallel(2, training=SHORT)
    assert toy.model.W_in.shape == (6, 15)
    assert toy.n_groups == 15
    assert torch.equal(toy.model.W_in, torch.block_diag(*[block.model.W_in] * 3))
    x = block.sample(16, torch.Generator().manual_seed(0))
    both = toy.model(torch.cat([x, x.flip(0), x], dim=1))
    expected = torch.cat([block.model(v) for v in (x, x.flip(0), x)], dim=1)
    torch.testing.assert_close(both, expected)


def test_identity_layer_is_a_parameter_at_the_identity():
    (toy,) = TOYS["tms-identity"]([0], training=SHORT)
    names = [name for name, _ in toy.model.named_parameters()]
    assert names == ["W_in", "W_hidden", "W_out", "bias"]
    assert torch.equal(toy.model.W_hidden, torch.eye(2))


def test_training_settings_are_checked():
    with pytest.raises(ValueError, match="batch_size: expected at most n_samples=64; got 128"):
        ToyTraining(n_samples=64)
    with pytest.raises(ValueError, match="seeds: expected at least one"):
        tms.many([])


QUICK = ToyTraining(n_steps=20, n_candidates=1)


def test_the_same_function_of_a_first_input_in_other_units():
    plain, scaled = tms(0, training=QUICK), tms(0, large_input=100.0, training=QUICK)
    x = plain.sample(20, torch.Generator().manual_seed(0))
    y = scaled.sample(20, torch.Generator().manual_seed(0))
    assert float(y[:, 0].max()) > 10
    torch.testing.assert_close(plain.model(x), scaled.model(y))
    with pytest.raises(ValueError, match="large_input: expected a positive number; got 0"):
        tms(0, large_input=0.0, training=QUICK)


def test_signed_inputs_are_answered_by_their_positive_parts():
    toy = tms(0, 4, 4, signed=True, training=ToyTraining(n_steps=400, n_candidates=1))
    x = toy.sample(200, torch.Generator().manual_seed(0))
    assert x.min() < -0.5
    error = (toy.model(x).detach() - x.relu()).square().mean()
    assert error < 0.1 * x.relu().square().mean()
    assert not toy.has_two_signs


def test_mixing_with_other_numbers_of_outputs():
    toy = tmcs(0, 4, 3, 2, training=QUICK)
    assert (toy.name, toy.mixing.shape) == ("tmcs-4-3-2", (2, 4))
    assert toy.model(toy.sample(7, torch.Generator())).shape == (7, 2)


def test_the_published_squares_start_as_published():
    start = ToyTraining(n_steps=1, learning_rate=1e-12, n_candidates=1)
    parameters = squared(0, variant="published", training=start).model.state_dict()
    biases = torch.cat([p for name, p in parameters.items() if name.endswith("bias")])
    assert 0.01 <= float(biases.min()) < 0.2
    assert 0.8 < float(biases.max()) <= 1
    hidden = torch.cat([parameters[f"layers.{i}.weight"].flatten() for i in (1, 2, 3)])
    assert float(hidden.var()) == pytest.approx(2 / 10, rel=0.3)


class Unmoved(torch.nn.Module):
    """Outputs of zero, whatever its weight."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return 0 * x * self.weight


def test_weight_decay_at_a_constant_rate_by_hand():
    def initial(generator):
        return {"weight": torch.ones(1)}

    recipe = Recipe("unmoved", Unmoved(), SparseInputs(1), initial, lambda x, _: x)
    decay = ToyTraining(4, 1.0, n_candidates=1, schedule="constant", weight_decay=0.5)
    assert train_many(recipe, [0], decay)[0].model.weight.item() == 0.5**4
    assert train_many(recipe, [0], replace(decay, weight_decay=0.0))[0].model.weight.item() == 1
