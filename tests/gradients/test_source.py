import pytest
import torch
from torch import Tensor, nn

from subscape import FixedOutput, GradientSource, Pairs, Target
from subscape.divergences import mse
from subscape.gradients import generator_of
from subscape.gradients import one_pass as one_pass_module
from subscape.gradients import source as source_module


def linear_source(n: int = 10, **options) -> GradientSource:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, data = nn.Linear(3, 2).double(), torch.randn(n, 3).double()
    return GradientSource(Target(model), data, **options)


def token_source(n: int = 40, length: int = 5, **options) -> GradientSource:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(7, 3), nn.Linear(3, 7))
        data = torch.randint(0, 7, (n, length))
    return GradientSource(Target(model), data, rows="token", **options)


def same(a, b) -> bool:
    positions = (
        a.position is None and b.position is None
        if a.position is None or b.position is None
        else torch.equal(a.position, b.position)
    )
    return (
        positions
        and torch.equal(a.samples, b.samples)
        and torch.equal(a.reference, b.reference)
        and torch.equal(a.outputs, b.outputs)
    )


# Which rows


@pytest.mark.parametrize("make", [linear_source, token_source])
def test_a_batch_depends_on_seed_and_number_only(make):
    one, other = make(seed=5), make(seed=5)
    first = one.batch(7, 4)
    for number in (3, 0, 11):  # what else was drawn in between does not matter
        other.batch(number, 4)
    assert same(first, other.batch(7, 4))
    assert not same(first, one.batch(8, 4))
    assert not torch.equal(first.samples, make(seed=6).batch(7, 4).samples)


def test_no_sample_comes_twice_within_a_batch():
    source = linear_source(10)
    for number in range(30):
        assert source.batch(number, 7).samples.unique().numel() == 7


@pytest.mark.parametrize(("n", "size"), [(12, 4), (12, 12), (13, 4)])
def test_an_epoch_is_a_permutation(n: int, size: int):
    source = linear_source(n)
    per_epoch = n // size
    orders = []
    for epoch in range(3):
        drawn = [source.batch(epoch * per_epoch + i, size).samples for i in range(per_epoch)]
        orders.append(torch.cat(drawn))
        # What does not fill a batch (one of 13 samples) is left out of that epoch.
        assert orders[-1].unique().numel() == per_epoch * size
        assert int(orders[-1].min()) >= 0
        assert int(orders[-1].max()) < n
    assert not torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[1], orders[2])


def test_samples_left_out_of_one_epoch_come_in_others():
    source = linear_source(13)
    drawn = torch.cat([source.batch(number, 12).samples for number in range(60)])
    assert drawn.unique().numel() == 13


def test_a_block_holds_the_samples_of_its_batches():
    source = linear_source(10)
    block = source.block(3, 4, 5)
    single = torch.cat([source.batch(number, 5).samples for number in range(3, 7)])
    assert torch.equal(block.samples, single)
    assert same(block, linear_source(10).block(3, 4, 5))


def test_a_reference_in_a_block_is_never_of_the_same_sample():
    source = linear_source(6, reference="another-row", seed=1)
    for first in range(0, 40, 4):
        block = source.block(first, 4, 6)  # four epochs: every sample comes four times
        for row, reference in enumerate(block.reference):
            assert not torch.equal(reference, block.outputs[row])


def test_token_rows_cover_all_positions_evenly():
    source = token_source(40, 5)
    positions = torch.cat([source.batch(number, 40).position for number in range(50)])
    counts = positions.bincount(minlength=5)
    assert counts.numel() == 5
    # 2,000 draws of 5 positions: 400 each with a standard deviation of 18; five of them are 90.
    assert ((counts - 400).abs() < 90).all()


def test_outputs_of_a_token_batch_are_those_at_its_positions():
    source = token_source(8, 5)
    batch = source.batch(2, 8)
    with torch.no_grad():
        whole = source.target.model(source.data[batch.samples])
    assert torch.equal(batch.outputs, whole[torch.arange(8), batch.position])


def test_cached_outputs_are_the_models_own():
    source = linear_source(engine="jacobian")
    batch = source.batch(1, 4)
    with torch.no_grad():
        torch.testing.assert_close(batch.outputs, source.target.model(source.data[batch.samples]))


# Gradients


@pytest.mark.parametrize("engine", ["jacobian", "vmap"])
def test_gradients_of_a_linear_map_by_hand(engine):
    # f = W x with W = [[1, 2]]; samples x = [1, 0], [0, 1]: f = 1, 2. Each is the other's reference.
    # D = (f − r)², dD/df = 2 (f − r): −2 for sample 0, 2 for sample 1; times x.
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0]]))
    source = GradientSource(Target(model), torch.eye(2), engine=engine)
    batch = source.rows_at(torch.tensor([0, 1]), draw=0)
    assert source.gradients(batch).flat.tolist() == [[-2.0, 0.0], [0.0, 2.0]]


def test_named_rules_and_their_objects_give_the_same():
    named = linear_source(divergence="mse", reference="uniform")
    given = linear_source(divergence=mse, reference=FixedOutput(torch.zeros(2).double()))
    paired = linear_source(reference=Pairs(torch.zeros(10, 2).double()))
    one = named.gradients(named.batch(0, 5)).flat
    assert torch.equal(one, given.gradients(given.batch(0, 5)).flat)
    assert torch.equal(one, paired.gradients(paired.batch(0, 5)).flat)


def test_pairs_go_with_their_samples():
    pairs = torch.arange(20.0).view(10, 2).double()
    batch = linear_source(reference=Pairs(pairs)).batch(3, 4)
    assert torch.equal(batch.reference, pairs[batch.samples])


# Which engine


def test_auto_takes_the_jacobian_while_it_fits_the_budget(monkeypatch: pytest.MonkeyPatch):
    # 2 outputs × 8 parameters × 10 samples × 8 bytes.
    monkeypatch.setattr(source_module, "JACOBIAN_BUDGET", 2 * 8 * 10 * 8)
    assert linear_source(10).engine == "jacobian"
    assert linear_source(11).engine == "rule"
    assert token_source(4).engine == "rule"


def test_vmap_is_chunked_by_its_budget(monkeypatch: pytest.MonkeyPatch):
    whole = linear_source(engine="vmap")
    expected = whole.gradients(whole.batch(0, 10)).flat
    seen = []

    def spy(target, inputs, position, e, *, names, chunk=None) -> dict[str, Tensor]:
        seen.append(chunk)
        return original(target, inputs, position, e, names=names, chunk=chunk)

    original = one_pass_module.vmap_gradients
    monkeypatch.setattr(one_pass_module, "vmap_gradients", spy)
    monkeypatch.setattr(one_pass_module, "CHUNK_BUDGET", 3 * 8 * 8)  # three rows of 8 float64
    found = whole.gradients(whole.batch(0, 10)).flat
    assert seen == [3]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


# Generators


def test_generators_of_neighbouring_numbers_are_unrelated():
    draws = torch.stack([
        torch.randn(1000, generator=generator_of(seed, use))
        for seed in range(4)
        for use in range(3)
    ])
    correlation = torch.corrcoef(draws) - torch.eye(12)
    # Independent draws of 1,000 correlate by 0.03; six standard deviations are 0.19.
    assert correlation.abs().max() < 0.19


def test_generators_depend_on_the_order_of_numbers():
    first = torch.randn(3, generator=generator_of(1, 2))
    assert torch.equal(first, torch.randn(3, generator=generator_of(1, 2)))
    assert not torch.equal(first, torch.randn(3, generator=generator_of(2, 1)))
    assert not torch.equal(first, torch.randn(3, generator=generator_of(1, 2, 0)))


def test_a_model_that_draws_at_random_is_refused():
    class Noisy(torch.nn.Linear):
        def forward(self, input):
            return super().forward(input) + torch.rand(1)

    with pytest.raises(ValueError, match=r"^model: expected the same outputs.*model\.eval\(\)"):
        GradientSource(Target(Noisy(3, 2)), torch.randn(8, 3))


def test_the_identity_tells_large_pairs_apart():
    data, one = torch.randn(2000, 3), torch.zeros(2000, 2)
    other = one.clone()
    other[1000, 1] = 1.0  # where a printed tensor shows only dots
    target = Target(torch.nn.Linear(3, 2))
    first, again, second = (
        GradientSource(target, data, reference=Pairs(pairs)).identity["reference"]
        for pairs in (one, one.clone(), other)
    )
    assert first == again
    assert first != second
