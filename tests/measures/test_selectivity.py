"""Sweeps, selectivity, validity and interaction of linear and quadratic models with known answers."""

import math

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from torch import nn

from subscape import Target
from subscape.divergences import KL, MSE, as_divergence
from subscape.measures import RowSet, auroc, delta_of_change, grid, interaction, sweep
from subscape.measures.selectivity import (
    Sweep,
    mean_of,
    means,
    r_squared,
    selectivity,
    slopes,
    spread,
    validity_radius,
)


class Of(nn.Module):
    """A function of an input and of these parameters."""

    def __init__(self, function, **parameters):
        super().__init__()
        self.function = function
        for name, value in parameters.items():
            self.register_parameter(name, nn.Parameter(torch.tensor([value]).double()))

    def forward(self, x):
        return self.function(x, **dict(self.named_parameters()))


def line(a=1.0, b=0.0):
    """f(x) = (a x, b x²)."""
    return Target(Of(lambda x, a, b: torch.cat([a * x, b * x.square()], 1), a=a, b=b))


def squared(w, limit=math.inf):
    """f(x) = w² x."""
    return Target(Of(lambda x, w: (w.square() * x).clamp(-limit, limit), w=w))


def exploding(w=0.0):
    """f(x) = (w + 1/(1 − w))·x for x > 0: not finite at w = 1; 0 for others."""
    return Target(Of(lambda x, w: torch.where(x > 0, (w + 1 / (1 - w)) * x, 0), w=w))


A, B, W = ({name: torch.ones(1, dtype=torch.float64)} for name in "abw")


def column(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


def all_of(data):
    return RowSet(torch.arange(len(data)))


def test_a_sweep_of_a_linear_model_by_hand():
    """a = 1 + δ: outputs (1 + δ) x, changes (δ x)²/2 over two outputs."""
    data = column(1, 2, 0)
    found = sweep(line(), data, all_of(data), A, [-2.0, 0.0, 1.0], MSE)
    assert found.deltas == (-2, 0, 1)
    assert found.change.tolist() == [[2, 8, 0], [0, 0, 0], [0.5, 2, 0]]
    # To the next row's output, 2, 0, 1: ((1+δ) x − y)²/2 − (x − y)²/2.
    drift = [
        [((1 + d) * x - y) ** 2 / 2 - (x - y) ** 2 / 2 for x, y in ((1, 2), (2, 0), (0, 1))]
        for d in (-2, 0, 1)
    ]
    assert found.drift.tolist() == drift


def test_base_and_reference_can_be_given():
    data = column(1, 2)
    target, rows = line(), all_of(data)
    base = torch.tensor([[1.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    zero = torch.zeros_like(base)
    found = sweep(target, data, rows, A, [1.0], MSE, base=base, reference=zero)
    assert found.change.tolist() == [[0.5, 2]]
    assert found.drift.tolist() == [[(4 - 1) / 2, (16 - 4) / 2]]


def test_change_is_from_the_own_output_whatever_its_divergence_from_itself():
    """KL of logits to themselves is 0; a divergence that adds a constant must not show it."""
    data = column(1, 2)
    above = as_divergence(lambda f, y: MSE(f, y) + 7)
    found = sweep(line(), data, all_of(data), A, [0.0, 1.0], above)
    assert found.change.tolist() == [[0, 0], [0.5, 2]]


def test_outputs_that_are_not_finite_are_nan():
    data = column(1, -1)
    found = sweep(exploding(), data, all_of(data), W, [0.5, 1.0], MSE)
    assert torch.isfinite(found.change[0]).all()
    assert found.change[1].isnan().tolist() == [True, False]
    assert found.drift[1].isnan().tolist() == [True, False]
    assert found.change[1, 1] == 0


def test_spread_by_hand():
    """Outputs 0, 1, 3: squared differences of all pairs, each twice: 1, 1, 4, 4, 9, 9."""
    assert spread(column(0, 1, 3), MSE) == 4
    with pytest.raises(ValueError, match="at least 2 rows"):
        spread(column(0), MSE)


def test_delta_of_a_linear_model():
    """Mean over rows of (δ x)²/2 with x = 1, 1: δ = √(2 size)."""
    data = column(1, 1)
    target = line(a=100.0)
    for size in (1e-6, 0.02, 30.0):
        found = delta_of_change(target, data, all_of(data), A, MSE, size)
        assert 0.9 * size <= found**2 / 2 <= 1.1 * size


@hypothesis.given(st.floats(-6, 6), st.floats(-2, 2))
@hypothesis.settings(max_examples=50)
def test_the_change_is_met_within_a_tenth(log_size, w):
    """f = w² x moves by (2wδ + δ²) x; over both signs of δ the mean square is 4w²δ² + δ⁴."""
    size, data = 10**log_size, column(1, 1)
    found = delta_of_change(squared(1000 + w), data, all_of(data), W, MSE, size)
    change = 4 * (1000 + w) ** 2 * found**2 + found**4
    assert 0.9 * size <= change <= 1.1 * size


def test_a_change_that_is_never_reached_has_no_delta():
    """The output is cut off at 1, so it never changes by more than 2; nor by anything at x = 0."""
    data = column(1, 1)
    found = delta_of_change(squared(1.0, limit=1.0), data, all_of(data), W, MSE, 5.0)
    assert math.isnan(found)
    for size in (0.0, math.nan):  # no change to aim at
        assert math.isnan(delta_of_change(line(), data, all_of(data), A, MSE, size))
    flat = column(0, 0)
    assert math.isnan(delta_of_change(squared(1.0), flat, all_of(flat), W, MSE, 0.1))


def test_delta_is_no_longer_than_the_parameters():
    """‖a‖ = 3; a change of δ²/2 = 2 needs δ = 2, one of 8 needs 4."""
    data = column(1, 1)
    run = lambda size: delta_of_change(line(a=3.0), data, all_of(data), A, MSE, size)  # noqa: E731
    assert run(2.0) == pytest.approx(2.0, rel=0.06)
    assert run(4.5) == pytest.approx(3.0, rel=0.06)
    assert math.isnan(run(8.0))
    assert math.isnan(delta_of_change(line(a=0.0), data, all_of(data), A, MSE, 0.1))


def test_delta_where_outputs_stop_being_finite():
    """(w + 1/(1 − w)) x: a change of 4 is reached at about δ = 0.7; x = 1e200 is infinite at once."""
    data = column(1, 1)
    near = exploding(0.5)
    found = delta_of_change(near, data, all_of(data), W, MSE, 1.0)
    assert 0 < found < 0.5
    both = sweep(near, data, all_of(data), W, [found, -found], MSE).change.mean()
    assert both == pytest.approx(1.0, rel=0.1)
    # Moves by 0.01 at most, and is infinite beyond.
    cliff = Of(lambda x, w: torch.where((w - 1).abs() <= 0.01, w * x, math.inf), w=1.0)
    assert math.isnan(delta_of_change(Target(cliff), data, all_of(data), W, MSE, 1.0))


def test_selectivity_by_hand():
    """Means over ±δ: 4, 2 inside; 2, 1, 0 outside. 5 of the 6 pairs are larger, one is a tie."""
    change = torch.tensor([[3.0, 2, 2, 1, 0], [5.0, 2, 2, 1, 0]])
    relevant = torch.tensor([True, True, False, False, False])
    found = selectivity(change, relevant, 0.7)
    assert (found.delta, found.ratio, found.auroc_random) == (0.7, 3, None)
    assert found.auroc == pytest.approx(5.5 / 6, abs=1e-6)
    # Along the random direction the others change more.
    both = selectivity(change, relevant, 0.7, random=6 - change)
    assert (both.ratio, both.auroc) == (found.ratio, found.auroc)
    assert both.auroc_random == pytest.approx(0.5 / 6, abs=1e-6)


def test_selectivity_where_others_or_all_do_not_change_or_not_finitely():
    relevant = torch.tensor([True, False])
    only = selectivity(torch.tensor([[1.0, 0.0]]), relevant, 1.0)
    assert (only.ratio, only.auroc) == (None, 1)
    none = selectivity(torch.tensor([[0.0, 0.0]]), relevant, 1.0)
    assert (none.ratio, none.auroc) == (None, 0.5)
    for bad in (math.nan, math.inf):
        change = torch.tensor([[1.0, bad]])
        found = selectivity(change, relevant, 1.0, random=torch.ones(1, 2))
        assert (found.ratio, found.auroc, found.auroc_random) == (None, None, 0.5)
        assert selectivity(torch.ones(1, 2), relevant, 1.0, random=change).auroc_random is None
    for of_one_kind in ([True, True], [False, False]):
        with pytest.raises(ValueError, match="some relevant rows and some others"):
            selectivity(torch.zeros(2, 2), torch.tensor(of_one_kind), 1.0)


def test_means_by_hand():
    values = torch.tensor([[1.0, 3.0, 9.0], [1.0, math.nan, 9.0], [1.0, math.inf, 9.0]])
    which = torch.tensor([True, True, False])
    assert mean_of(values, which) == (2, None, None)
    assert mean_of(values, torch.zeros(3, dtype=torch.bool)) == (None,) * 3
    deltas = (-1.0, 0.0, 1.0)
    found = means(Sweep(deltas, values, values), Sweep(deltas, values + 1, values), which)
    assert (found.delta, found.relevant) == (deltas, (2, None, None))
    assert (found.irrelevant, found.random) == ((9, 9, 9), (3, None, None))


SOME = st.lists(st.integers(0, 5), min_size=1, max_size=8)


@hypothesis.given(SOME, SOME)
def test_auroc_counts_pairs(inside, outside):
    pairs = [(a > b) + 0.5 * (a == b) for a in inside for b in outside]
    a, b = torch.tensor(inside).float(), torch.tensor(outside).float()
    assert auroc(a, b) == pytest.approx(sum(pairs) / len(pairs))
    assert auroc(b, a) == pytest.approx(1 - sum(pairs) / len(pairs))


def test_slopes_are_derivatives_of_the_divergence(small):
    made = small("mlp")
    rows = RowSet(torch.arange(6))
    v = made.decomposition[0].dense()
    base = made.target.outputs(made.data[:6]).detach()
    for divergence in (MSE, KL):
        reference = base.roll(-1, 0)
        found = slopes(made.target, made.data, rows, v, divergence, reference)
        h = 1e-5
        ends = sweep(made.target, made.data, rows, v, [h, -h], divergence, reference=reference)
        expected = (ends.drift[0] - ends.drift[1]) / (2 * h)
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


def test_a_divergence_linear_in_delta_is_valid_everywhere():
    """D = Σ (f − y) is linear in a, so its gradient predicts every δ."""
    data = column(1, 2, -1)
    target, rows = line(), all_of(data)
    linear = as_divergence(lambda f, y: (f - y).sum(1))
    base = target.outputs(data).detach()
    found = sweep(target, data, rows, A, [-8.0, -4.0, -2.0, 0.0, 2.0, 4.0, 8.0], linear)
    slope = slopes(target, data, rows, A, linear, base.roll(-1, 0))
    assert slope.tolist() == [1, 2, -1]
    assert validity_radius(found, slope) == 8


def test_validity_ends_where_r_squared_falls():
    """Drift s δ + c δ² with slopes s = ±1, both signs of δ: residual c δ² of every row, actual values
    ±δ + c δ² around their mean c δ²; R² = 1 − c²δ⁴/δ² = 1 − c²δ², 0.9 at cδ = √0.1 = 0.316."""
    slope = torch.tensor([1.0, -1.0]).double()
    deltas = [s * d for d in (0.1, 0.2, 0.3, 0.4) for s in (1, -1)]
    curved = [[s * d + d * d for s in (1, -1)] for d in deltas]
    drift = torch.tensor(curved, dtype=torch.float64)
    assert validity_radius(Sweep(tuple(deltas), drift, drift), slope) == 0.3
    steep = drift + torch.tensor([[9 * d * d] * 2 for d in deltas])
    assert validity_radius(Sweep(tuple(deltas), steep, steep), slope) == 0
    drift[2, 0] = math.nan  # at 0.2
    assert validity_radius(Sweep(tuple(deltas), drift, drift), slope) == 0.1
    assert validity_radius(Sweep((0.0,), drift[:1], drift[:1]), slope) == 0


def test_r_squared_by_hand():
    """Mean 2, total 2, residual 0.5."""
    actual = torch.tensor([1.0, 2.0, 3.0])
    assert r_squared(actual + torch.tensor([0.5, 0.5, 0.0]), actual) == 0.75
    assert r_squared(actual, torch.full((3,), 2.0)) == -math.inf
    assert r_squared(actual, torch.tensor([1.0, math.nan, 3.0])) == -math.inf


def test_moves_that_do_not_meet_have_no_interaction():
    data = column(1, 2, -1)
    assert interaction(line(2, 3), data, all_of(data), A, B) == pytest.approx(0, abs=1e-12)


def test_interaction_by_hand():
    """w = 1 moved by 1 and by 2: f = 1 → 4, 9, and together 16. |15 − 3 − 8| / (3 + 8) = 4/11."""
    data = column(1, 1)
    target, rows = squared(1.0), all_of(data)
    moves = {"w": W["w"]}, {"w": 2 * W["w"]}
    assert interaction(target, data, rows, *moves) == pytest.approx(4 / 11)
    assert interaction(target, data, rows, *reversed(moves)) == pytest.approx(4 / 11)
    base = target.outputs(data).detach()
    assert interaction(target, data, rows, *moves, base=base) == pytest.approx(4 / 11)


def test_interaction_of_nothing_or_of_outputs_that_are_not_finite_is_nan():
    zeros, ones = column(0, 0), column(1, 1)
    assert math.isnan(interaction(line(2, 3), zeros, all_of(zeros), A, B))
    target, rows = exploding(), all_of(ones)
    half = {"w": 0.5 * W["w"]}
    assert math.isnan(interaction(target, ones, rows, half, half))  # only both together: w = 1
    assert math.isnan(interaction(target, ones, rows, W, half))


def test_a_grid_by_hand():
    """(a + δ₁) x and (b + δ₂) x² at x = 2."""
    data = column(2)
    found = grid(line(1, 1), data, all_of(data), A, B, [0.0, 1.0])
    assert found.shape == (2, 2, 1, 2)
    assert found[:, :, 0].tolist() == [[[2, 4], [2, 8]], [[4, 4], [4, 8]]]


def test_a_grid_along_one_direction_adds_up(small):
    made = small("mlp")
    rows, v = RowSet(torch.arange(3)), made.decomposition[0].dense()
    deltas = [-0.5, 0.0, 1.0]
    found = grid(made.target, made.data, rows, v, v, deltas)
    torch.testing.assert_close(found[0, 2], found[2, 0])
    moved = {n: p.detach() + 0.5 * v[n] for n, p in made.target.parameters.items()}
    torch.testing.assert_close(found[0, 2], made.target.outputs(made.data[:3], moved))
