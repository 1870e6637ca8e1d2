import pytest
import torch

from subscape._ranks import ALONE, Ranks, current, distributed, launched, n_launched


def test_alone_nothing_is_exchanged_or_copied():
    values = torch.tensor([1.0, 2.0])
    assert ALONE.summed(values) is values
    assert ALONE.joined(values, [2], dim=0) is values
    assert ALONE.decided(lambda: values) is values
    ALONE.average_(values)
    assert values.tolist() == [1.0, 2.0]
    assert ALONE.number(3) == 3
    assert current() == ALONE


@pytest.fixture
def others(monkeypatch):
    """The tensors that this one of three processes gives to a sum, to which the others add 1 each."""
    given = []

    def all_reduce(values):
        given.append(values.clone())
        values += 2

    monkeypatch.setattr(distributed, "all_reduce", all_reduce)
    return given


def test_parts_are_joined_by_a_sum_with_zeros_elsewhere(others):
    own = torch.tensor([[5.0], [6.0]])
    joined = Ranks(1, 3).joined(own, [1, 2, 1], dim=0)
    assert others[0].tolist() == [[0.0], [5.0], [6.0], [0.0]]
    assert joined.tolist() == [[2.0], [7.0], [8.0], [2.0]]
    assert own.tolist() == [[5.0], [6.0]]


def test_a_mean_takes_the_place_of_ones_own(others):
    own = torch.tensor([4.0, 1.0])
    Ranks(0, 3).average_(own)
    assert own.tolist() == [2.0, 1.0]


def test_work_is_dealt_out_or_done_by_all():
    shares = [Ranks(rank, 2).share("abcde") for rank in range(2)]
    assert [work for work, _ in shares] == ["ace", "bd"]
    assert shares[1][1] == Ranks(1, 2)
    assert Ranks(1, 3).share("ab") == ("ab", ALONE)


def test_one_that_is_gone_is_told_from_a_wrong_argument(monkeypatch):
    def all_reduce(values):
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(distributed, "all_reduce", all_reduce)
    with pytest.raises(ConnectionError, match="^processes: expected all .* one that has stopped"):
        Ranks(0, 2).summed(torch.zeros(1))


def test_processes_are_those_of_the_environment(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert n_launched() == 1  # set by others too, who start one process
    monkeypatch.setenv("RANK", "2")
    assert n_launched() == 4
    monkeypatch.setenv("WORLD_SIZE", "1")
    with launched(torch.device("cpu")) as (ranks, device):
        assert (ranks, device) == (ALONE, torch.device("cpu"))
