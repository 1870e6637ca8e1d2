import pytest
import torch

from subscape.toys import TOYS, ToyTraining, tms, tms_parallel

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
