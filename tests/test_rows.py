"""Rows are a pure function of seed, step, rank and number of ranks; partners and groups belong together."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from subscape.rows import GROUP, RowDraws, RowKind, Rows, generator_of, joined

LENGTH = 3
KINDS: list[RowKind] = ["sample", "sampled-token", "token"]
every_kind = pytest.mark.parametrize("kind", KINDS)


def draws(kind, n=40, *, length=LENGTH, seed=5):
    return RowDraws(n, kind, length, seed)


def step(kind, number, n, **given):
    """Rows of `n` samples."""
    made = draws(kind)
    return made.at_step(number, n * made.per_sample, **given)


def same(a, b):
    def fields(rows):
        given = [rows.samples, rows.partner, rows.position, torch.tensor(rows.groups)]
        return [x for x in given if x is not None]

    pairs = zip(fields(a), fields(b), strict=True)
    return all(torch.equal(x, y) for x, y in pairs) and a.n_positions == b.n_positions


# What rows depend on


@every_kind
def test_rows_depend_on_seed_and_step_only(kind):
    one, other = draws(kind), draws(kind)
    size = 4 * one.per_sample
    state, first = torch.get_rng_state(), one.at_step(7, size)
    for number in (3, 0, 11):  # what else was drawn in between does not matter
        other.at_step(number, size)
    assert same(first, other.at_step(7, size))
    assert not torch.equal(first.samples, one.at_step(8, size).samples)
    assert not torch.equal(first.samples, draws(kind, seed=6).at_step(7, size).samples)
    assert torch.equal(torch.get_rng_state(), state)


@given(
    kind=st.sampled_from(KINDS),
    number=st.integers(0, 9),
    n=st.integers(1, 40),
    n_ranks=st.integers(1, 7),
)
def test_the_shares_of_all_ranks_are_the_rows_of_one(kind, number, n, n_ranks):
    shares = [step(kind, number, n, rank=rank, n_ranks=n_ranks) for rank in range(n_ranks)]
    whole = step(kind, number, n)
    assert same(joined(shares), whole)
    sizes = [len(share.groups) for share in shares]
    assert max(sizes) - min(sizes) <= 1


@every_kind
def test_another_draw_of_the_same_samples_has_other_partners(kind):
    samples = torch.tensor([9, 2, 30, 4, 5, 6, 7])
    first, second = (draws(kind).of_samples(samples, draw=draw) for draw in (0, 1))
    assert torch.equal(first.samples, second.samples)
    assert torch.equal(first.sample_of_each, samples)
    assert not torch.equal(first.partner, second.partner)
    if kind == "sampled-token":
        assert not torch.equal(first.position, second.position)


# Epochs


@pytest.mark.parametrize(("n", "size"), [(12, 4), (12, 12), (13, 4), (10, 7)])
def test_in_an_epoch_no_sample_comes_twice(n, size):
    made, per_epoch, orders = draws("sample", n), n // size, []
    for epoch in range(3):
        steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
        orders.append(torch.cat([made.at_step(number, size).samples for number in steps]))
        # What does not fill a step (one of 13 samples, three of 10) is left out of that epoch.
        assert orders[-1].unique().numel() == per_epoch * size
        assert set(orders[-1].tolist()) <= set(range(n))
    assert not torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[1], orders[2])
    # They come in others.
    later = torch.cat([made.at_step(number, size).samples for number in range(60 * per_epoch)])
    assert later.unique().numel() == n


# Groups and partners


@pytest.mark.parametrize(
    ("n", "groups"),
    [
        (1, (1,)),
        (7, (7,)),
        (8, (8,)),
        (15, (15,)),
        (16, (8, 8)),
        (17, (8, 9)),
        (23, (11, 12)),
        (26, (8, 9, 9)),
    ],
)
def test_groups_are_eight_samples_or_a_few_more(n, groups):
    assert step("sample", 0, n).groups == step("sampled-token", 0, n).groups == groups
    assert step("token", 0, n).groups == tuple(LENGTH * size for size in groups)
    assert GROUP == 8


def group_of(rows):
    return torch.arange(len(rows.groups)).repeat_interleave(torch.tensor(rows.groups))


@given(kind=st.sampled_from(KINDS), number=st.integers(0, 9), n=st.integers(1, 40))
def test_partners_are_other_rows_of_the_group(kind, number, n):
    rows = step(kind, number, n)
    group = group_of(rows)
    assert torch.equal(group[rows.partner], group)
    alone = torch.tensor(rows.groups)[group] == 1
    assert torch.equal(rows.partner == torch.arange(len(rows)), alone)
    # A group is made of whole samples.
    by_sample = rows.samples.view(-1, rows.per_sample)
    assert (by_sample == by_sample[:, :1]).all()
    assert (group.view(-1, rows.per_sample) == group[:: rows.per_sample, None]).all()


@every_kind
def test_partners_are_uniform_over_the_other_rows_of_the_group(kind):
    made, n_draws = draws(kind, length=2), 2000
    counts = torch.zeros(17 * made.per_sample, 17 * made.per_sample)
    for draw in range(n_draws):
        rows = made.of_samples(torch.arange(17), draw=draw)
        counts[torch.arange(len(rows)), rows.partner] += 1
    group = group_of(rows)
    others = (group[:, None] == group) & ~torch.eye(len(group), dtype=torch.bool)
    assert (counts[~others] == 0).all()
    expected = n_draws / others.sum(1, keepdim=True).expand_as(counts)[others]
    # 2,000 draws over at most 17 others have a relative standard deviation of up to 9 %; of some 600
    # counts the farthest lies below five of them.
    assert ((counts[others] - expected).abs() < 5 * expected.sqrt()).all()


# Parts


@given(kind=st.sampled_from(KINDS), n=st.integers(1, 40), size=st.none() | st.integers(1, 130))
def test_micro_batches_are_whole_groups_and_together_all_rows(kind, n, size):
    rows = step(kind, 1, n)
    parts = rows.micro_batches(size)
    assert same(joined(parts), rows)
    for number, part in enumerate(parts):
        assert len(part) == sum(part.groups)
        assert size is None or len(part) <= size or len(part.groups) == 1
        if number + 1 < len(parts):  # no part could have taken the next group as well
            assert size is not None
            assert len(part) + parts[number + 1].groups[0] > size
    if size is None:
        assert len(parts) == 1


@pytest.mark.parametrize(
    ("n", "size", "expected"),
    [(40, None, [40]), (40, 40, [40]), (40, 39, [32, 8]), (40, 16, [16, 16, 8]), (7, 1, [7])],
)
def test_sizes_of_micro_batches_by_hand(n, size, expected):
    assert [len(part) for part in step("sample", 0, n).micro_batches(size)] == expected


def test_a_part_by_hand():
    # Two groups of two sequences of two positions.
    rows = Rows(
        torch.tensor([5, 5, 3, 3, 0, 0, 1, 1]),
        torch.tensor([0, 1] * 4),
        torch.tensor([1, 3, 0, 2, 7, 4, 5, 6]),
        (4, 4),
        per_sample=2,
        n_positions=2,
    )
    assert rows.index.tolist() == [10, 11, 6, 7, 0, 1, 2, 3]
    assert rows.sample_of_each.tolist() == [5, 3, 0, 1]
    assert rows.picked_position is None
    second = rows.between(1, 2)
    assert second.samples.tolist() == [0, 0, 1, 1]
    assert second.partner.tolist() == [3, 0, 1, 2]
    assert joined([second, second]).partner.tolist() == [3, 0, 1, 2, 7, 4, 5, 6]
    assert joined([second]) is second


# Positions


def test_places_in_the_data_by_hand():
    samples, position = torch.tensor([4, 0]), torch.tensor([2, 1])
    one_each = Rows(samples, position, torch.tensor([1, 0]), (2,), n_positions=3)
    assert one_each.index.tolist() == [14, 1]
    assert one_each.picked_position is position
    assert Rows(samples, None, torch.tensor([1, 0]), (2,)).index is samples


def test_sampled_positions_cover_all_evenly():
    made = draws("sampled-token", 40, length=5)
    positions = torch.cat([made.at_step(number, 40).position for number in range(50)])
    counts = positions.bincount(minlength=5)
    assert counts.numel() == 5
    # 2,000 draws of 5 positions: 400 each with a standard deviation of 18; five of them are 90.
    assert ((counts - 400).abs() < 90).all()


def test_all_positions_of_a_sequence_follow_each_other():
    rows = draws("token").of_samples(torch.tensor([7, 2]), draw=0)
    assert rows.samples.tolist() == [7, 7, 7, 2, 2, 2]
    assert rows.position.tolist() == [0, 1, 2, 0, 1, 2]


# Errors


@pytest.mark.parametrize(
    ("kind", "size", "message"),
    [
        ("token", 8, "a multiple of the 3 positions of a sample for 'token' rows; got 8. 9 would"),
        ("token", 1, "a multiple of the 3 positions .* got 1. 3 would do"),
        ("token", 123, "at most the 40 samples there are .* got 41. Lower it"),
        ("sample", 41, "at most the 40 samples there are .* got 41. Lower it"),
    ],
)
def test_sizes_that_cannot_be_had(kind, size, message):
    with pytest.raises(ValueError, match=f"^batch_size: expected {message}"):
        draws(kind).at_step(0, size)


# Generators


def test_generators_of_neighbouring_numbers_are_unrelated():
    drawn = torch.stack([
        torch.randn(1000, generator=generator_of(seed, use))
        for seed in range(4)
        for use in range(3)
    ])
    correlation = torch.corrcoef(drawn) - torch.eye(12)
    # Independent draws of 1,000 correlate by 0.03; six standard deviations are 0.19.
    assert correlation.abs().max() < 0.19
    first, same, *others = (
        torch.randn(3, generator=generator_of(*numbers))
        for numbers in ((1, 2), (1, 2), (2, 1), (1, 2, 0))
    )
    assert torch.equal(first, same)
    assert not any(torch.equal(first, other) for other in others)
