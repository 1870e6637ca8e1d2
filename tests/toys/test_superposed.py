import pytest
import torch
from torch import nn

from subscape.measures.recovery import absolute_cosines
from subscape.toys import superposed, true_subnetworks
from subscape.toys.superposition import lines


def test_lines_by_hand():
    # p = 3, two columns of three neurons: circuit 3 a + b has neurons b and 3 + (a + b) mod 3.
    members = [lines(9, 6, 2)[:, t].nonzero()[:, 0].tolist() for t in range(9)]
    assert members[:4] == [[0, 3], [1, 4], [2, 5], [0, 4]]
    assert members[8] == [2, 4]


@pytest.mark.parametrize(("t", "d", "s"), [(9, 6, 2), (42, 21, 3), (49, 21, 3), (20, 10, 2)])
def test_any_two_circuits_share_one_neuron_at_most(t, d, s):
    members = lines(t, d, s).int()
    assert members.sum(0).tolist() == [s] * t
    shared = members.T @ members
    assert int(shared.fill_diagonal_(0).max()) == 1


@pytest.mark.parametrize(("t", "d", "s"), [(50, 21, 3), (9, 7, 2), (9, 8, 2), (4, 2, 1), (9, 6, 3)])
def test_no_plane_for_these(t, d, s):
    with pytest.raises(ValueError, match="n_hidden|n_features"):
        lines(t, d, s)


def test_one_circuit_alone_is_exact():
    toy = superposed(0)
    x = toy.single(5, 20, torch.Generator().manual_seed(0))
    expected = nn.functional.relu(x - 1 / 3)
    torch.testing.assert_close(toy.model(x), expected)
    assert toy.n_groups == 42
    assert toy.all_represented
    assert 0 < toy.final_loss < 0.01  # of inputs with several, which leak


def test_weights_are_the_sum_of_circuits_and_free_of_seeds():
    one, other = superposed.many([0, 7])
    flat = torch.cat([p.detach().flatten() for p in one.model.parameters()])
    torch.testing.assert_close(one.circuits.sum(0), flat)
    assert all(
        torch.equal(a, b)
        for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True)
    )
    assert one.final_loss != other.final_loss


def test_gradients_of_one_circuit_alone_are_its_weights():
    toy = superposed(0, 20, 10, 2)
    truth = true_subnetworks(toy)
    assert truth.energy.min() > 1 - 1e-6
    assert absolute_cosines(truth.directions, toy.circuits).diagonal().min() > 1 - 1e-6
