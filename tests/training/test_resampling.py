from dataclasses import replace

import pytest
import torch

from subscape.gradients import DenseRowGradients
from subscape.lowrank import Stack, make_layout
from subscape.subnetworks import SELECTIONS, BatchTopK, Dictionary
from subscape.subnetworks.selection import GroupTopK
from subscape.training import Trainer
from subscape.training.resampling import N_CANDIDATES, n_replaced_at_most, replacements
from tests.training.conftest import SMALL, uniform_source

E = torch.eye(4, dtype=torch.float64)


def rows(*sizes, each=8):
    """`each` rows along every axis, as long as given."""
    flat = torch.cat([size * E[i].expand(each, 4) for i, size in enumerate(sizes)])
    return DenseRowGradients(flat, {"w": (4,)})


def dictionary(*directions):
    """A replica for every word: of each number in it, a subnetwork along that axis, one active per row."""
    weights = torch.stack([E[[int(axis) for axis in word]] for word in directions])
    stack = Stack(make_layout({"w": (4,)}, 1), weights)
    return Dictionary(stack, stack, BatchTopK(1.0, weights.shape[:-1], weights))


def replaced(gradients, made):
    n_replicas, n = made.selection.lead
    generator = torch.Generator().manual_seed(0)
    shape = 1, N_CANDIDATES * n_replaced_at_most(n)
    picks = torch.rand(shape, generator=generator, dtype=torch.float64)
    return replacements(gradients, made, picks.expand(n_replicas, -1))


@pytest.mark.parametrize(
    ("sizes", "axes", "ones", "becomes"),
    [
        # A dead subnetwork, which looks along axis 3, where none is, becomes the direction that is missing.
        ((3.0, 3.0, 2.0), "031", [[1]], 2),
        # Only axis 0 is there; axis 1 is missing with rows of 2 (7 · 4 = 28), axis 2 with rows of 3 (63).
        ((3.0, 2.0, 3.0), "033", [[1], [2]], 2),
        # Nothing is replaced where nothing is missing.
        ((3.0, 3.0, 3.0), "012", [[]], None),
        # A used one gives way only to twice its use. Subnetwork 2 has Δ = 8 · 2² = 32. Axis 3 would gain
        # 7 · c², without the row it is from: 59 < 2 · 32 < 67.
        ((9.0, 9.0, 2.0, 2.9), "012", [[]], None),
        ((9.0, 9.0, 2.0, 3.1), "012", [[2]], 3),
        # A copy is of no use. Both fire in the rows of axis 0 and rebuild twice what is there: without one
        # of them the error falls by 8 · 9, though both are active as often as subnetwork 2.
        ((3.0, 3.0, 4.0), "001", [[0], [1]], 2),
    ],
)
def test_what_is_replaced_by_hand(sizes, axes, ones, becomes):
    found = replaced(rows(*sizes), dictionary(axes))
    assert found.subnetwork.tolist() in ones
    assert found.replica.tolist() == [0] * len(found.subnetwork)
    expected = torch.zeros(0, 4).double() if becomes is None else E[[becomes]]
    torch.testing.assert_close(found.weights.abs(), expected)


@pytest.mark.parametrize(("n_alike", "replaced_ones"), [(1, []), (2, [2])])
def test_a_candidate_is_not_judged_by_the_row_it_comes_from(n_alike, replaced_ones):
    # Rows of 20 along axis 3 are all that is missing. One alone is chance, though its ‖e‖² = 400 is far
    # more than twice the least use, 8 · 2² = 32; a second one like it speaks for a direction.
    alike = (20 * E[3]).expand(n_alike, 4)
    flat = torch.cat([rows(3.0, 3.0, 2.0).flat, alike])
    found = replaced(DenseRowGradients(flat, {"w": (4,)}), dictionary("012"))
    assert found.subnetwork.tolist() == replaced_ones


def test_a_group_becomes_what_rows_of_one_kind_need_by_hand():
    # Rows along axis 0, and (5, ±2) along 2 and 3; the second group looks along axis 1, where none is. A row's own
    # direction explains (25 − 4)/29 of the rows of the other sign; what is left of these is the rest of the plane.
    flat = torch.cat([
        9 * E[[0]].expand(8, 4),
        (5 * E[2] + 2 * torch.tensor([[1.0], [-1.0]]) * E[3]).repeat(4, 1),
    ])
    weights = E[[0, 1, 1, 1]][None].clone()
    stack = Stack(make_layout({"w": (4,)}, 1), weights)
    selection = GroupTopK(1.0, weights.shape[:-1], weights, 2)
    found = replaced(DenseRowGradients(flat, {"w": (4,)}), Dictionary(stack, stack, selection))
    assert found.subnetwork.tolist() == [2, 3]
    span = found.weights.mT @ found.weights
    torch.testing.assert_close(span, torch.diag(torch.tensor([0.0, 0.0, 1.0, 1.0]).double()))


def test_replicas_are_judged_each_by_itself():
    found = replaced(rows(3.0, 3.0, 3.0), dictionary("012", "031"))
    assert found.replica.tolist() == [1]
    assert found.subnetwork.tolist() == [1]


@pytest.mark.parametrize(("n", "expected"), [(1, 1), (9, 1), (10, 1), (20, 2), (100, 10)])
def test_at_most_a_tenth_is_replaced_but_at_least_one(n, expected):
    assert n_replaced_at_most(n) == expected


# In training

CONFIG = replace(SMALL, dense_warmup=0.0, resample_every=10)
EVERY = pytest.mark.parametrize("kind", list(SELECTIONS))


def trainer_with_a_dead_subnetwork(planted, config, steps):
    made = Trainer([uniform_source(planted)], config)
    for _ in range(steps):
        made.step()
    with torch.no_grad():
        made.dictionary.encoder_weights[0, 1, 3] = 0
    made.step()
    return made


def moments(made, restart, subnetwork):
    states = [made.optimiser.state[w] for w in made.dictionary.parameters()]
    return torch.cat([
        s[k][0, restart, subnetwork].flatten() for s in states for k in ("exp_avg", "exp_avg_sq")
    ])


@EVERY
def test_a_resampled_subnetwork_starts_afresh_and_the_others_go_on(planted, kind):
    config = replace(CONFIG, selection=kind)
    made = trainer_with_a_dead_subnetwork(planted, config, 9)
    idle = trainer_with_a_dead_subnetwork(planted, replace(config, resample_every=0), 9)
    encoder, decoder = made.dictionary.encoder, made.dictionary.decoder
    assert torch.equal(encoder.weights[0, 1, 3], decoder.weights[0, 1, 3])
    assert not moments(made, 1, 3).any()
    torch.testing.assert_close(decoder.flat()[0, 1, 3].norm(), torch.tensor(1.0).double())
    before = idle.dictionary.decoder.weights
    assert not torch.equal(decoder.weights[0, 1, 3], before[0, 1, 3])
    # At most one of five goes in a restart, and here it was the dead one.
    others = [0, 1, 2, 4]
    assert torch.equal(decoder.weights[0, 1, others], before[0, 1, others])
    assert all(moments(made, 1, k).any() for k in others)
    if kind == "jumprelu":
        found, old = (t.dictionary.selection.log_threshold[0, 1] for t in (made, idle))
        assert found[3] == old.mean()
        assert torch.equal(found[others], old[others])


@pytest.mark.parametrize("steps", [8, 29])
def test_resampling_keeps_to_its_steps(planted, steps):
    """Not between multiples of `resample_every`, and not after half of the 40 steps."""
    made = trainer_with_a_dead_subnetwork(planted, CONFIG, steps)
    assert moments(made, 1, 3).any()


def test_thresholds_that_have_not_begun_are_not_touched_by_resampling(planted):
    # In the dense warm-up there are none yet, and the optimiser holds nothing of them.
    config = replace(CONFIG, selection="jumprelu", dense_warmup=1.0)
    made = trainer_with_a_dead_subnetwork(planted, config, 9)
    assert not made.dictionary.selection.threshold.any()
    other = Trainer(made.sources, config)
    other.load_state(made.state())
    for name, values in made.state().items():
        assert torch.equal(values, other.state()[name]), name
