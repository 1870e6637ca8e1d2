"""One subnetwork's card, where all of it can be said by hand."""

import math

import pytest
import torch
from torch import nn

from subscape import Target
from subscape.divergences import mse
from subscape.lowrank import Stack, make_layout
from subscape.measures import RowSet, TopRows
from subscape.measures.card import Scene, card, mean_of


class Diagonal(nn.Module):
    """f(x) = w · x, entry by entry: subnetwork j is w_j and moves output j by δ x_j."""

    def __init__(self, cut: float = math.inf) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(3, dtype=torch.float64))
        self.cut = cut

    def forward(self, x):
        return torch.where(self.w.abs() < self.cut, self.w * x, math.inf)


LAYOUT = make_layout({"w": (3,)}, 1)
UNITS = Stack(LAYOUT, torch.eye(3, dtype=torch.float64))
# Rows 0, 1 have the first feature, 2 to 4 the second; the third is in none.
DATA = torch.tensor([[1.0, 0, 0], [2, 0, 0], [0, 1, 0], [0, 2, 0], [0, 3, 0]]).double()


def scene_of(others=(0, 2, 3, 4), size: float = 0.5, **options) -> Scene:
    return Scene(
        target=Target(Diagonal(**options)),
        data=DATA,
        divergence=mse,
        others=RowSet(torch.tensor(others)),
        size=size,
        n_deltas=3,
        n_outputs=2,
        centred=False,
    )


def top_of(samples, impact) -> TopRows:
    values = torch.tensor(impact, dtype=torch.float64)
    return TopRows(RowSet(torch.tensor(samples, dtype=torch.long)), values, values)


def idle(*flags: bool) -> torch.Tensor:
    return torch.tensor(flags)


def card_of(scene: Scene, top: TopRows, which: torch.Tensor, k: int = 0, control: int = 1):
    return card(scene, k, UNITS.select(k), UNITS.select(control), top, which)


def test_a_card_by_hand():
    """Along w₀ rows 1 and 0 change by (2δ)²/3 and δ²/3; 5δ²/6 = 0.5 at δ = 0.77. Others stay."""
    made = card_of(scene_of(), top_of([1, 0], [2, 1]), idle(False, True, True, True))
    assert made.index == 0
    assert 0.45 <= 5 * made.delta**2 / 6 <= 0.55
    d = made.delta
    assert made.found.deltas == (-d, -d / 2, -d / 4, 0.0, d / 4, d / 2, d)
    assert made.relevant.tolist() == [True, True, False, False, False]
    expected = [[4 * e * e / 3, e * e / 3, 0, 0, 0] for e in made.found.deltas]
    torch.testing.assert_close(made.found.change, torch.tensor(expected).double())
    assert mean_of(made.found.change, ~made.relevant) == [0] * 7
    # The control moves w₁: rows 2, 3, 4 change, the top rows do not.
    assert mean_of(made.control.change, made.relevant) == [0] * 7
    assert (made.selectivity.ratio, made.selectivity.auroc) == (math.inf, 1)
    assert (made.control_selectivity.ratio, made.control_selectivity.auroc) == (0, 0)
    # Means over the two rows: output 0 by (2 + 1)/2; each row by its own input.
    up, down = made.outputs
    assert (up.index.tolist(), up.value.tolist()) == ([0], [1.5])
    assert down.index.numel() == 0
    assert [r[0].value.tolist() for r in made.by_row] == [[2], [1]]


def test_the_validity_radius_is_that_of_the_sweep():
    """Rows 1, 0 with references 0 and 1's outputs: see the sweep's drift and its slopes by hand.

    Row (2, 0, 0) to y = (1, 0, 0): D = (2w − 1)²/3, slope 4/3, curvature 4δ²/3.
    Row (1, 0, 0) to y = (2, 0, 0), the roll of two rows: slope −2/3, curvature δ²/3.
    """
    made = card_of(scene_of(others=(2, 3)), top_of([1, 0], [2, 1]), idle(False, False))
    assert made.selectivity is None  # no row is irrelevant
    assert made.control_selectivity is None

    def r_squared(d: float) -> float:
        predicted = [s * e for e in (-d, d) for s in (4 / 3, -2 / 3)]
        actual = [s * e + c * e * e for e in (-d, d) for s, c in ((4 / 3, 4 / 3), (-2 / 3, 1 / 3))]
        mean = sum(actual) / 4
        rest = sum((a - p) ** 2 for a, p in zip(actual, predicted, strict=True))
        return 1 - rest / sum((a - mean) ** 2 for a in actual)

    d = made.delta
    valid = [s for s in (d / 4, d / 2, d) if r_squared(s) >= 0.9]
    assert 0 < len(valid) < 3
    assert made.validity_radius == max(valid)


def test_a_top_row_is_not_irrelevant_too():
    made = card_of(scene_of(), top_of([1, 0], [2, 1]), idle(True, True, True, True))
    assert len(made.relevant) == 2 + 3
    assert made.selectivity.auroc == 1


@pytest.mark.parametrize("top", [top_of([], []), top_of([1], [0.0])])
def test_without_impact_there_is_no_card(top):
    made = card_of(scene_of(), top, idle(False, True, True, True))
    assert made.outputs is None
    assert made.by_row == ()
    assert made.found is None
    assert made.selectivity is None
    assert math.isnan(made.delta)
    assert math.isnan(made.validity_radius)


def test_a_change_that_is_never_reached():
    """|δ| can be ‖w‖ = √3 at most, which changes the rows by 5·3/6 = 2.5."""
    made = card_of(scene_of(size=3.0), top_of([1, 0], [2, 1]), idle(False, True, True, True))
    assert math.isnan(made.delta)
    assert made.found is None
    assert made.outputs is not None
    assert made.relevant.tolist() == [True, True, False, False, False]


def test_a_control_that_leaves_the_finite_is_not_zero():
    """At w = 1.5 and beyond outputs are infinite; the second moves twice as far as the first."""

    scene = scene_of(size=0.1, cut=1.5)
    far = Stack(LAYOUT, torch.tensor([0.0, 4.0, 0.0]).double())
    made = card(
        scene, 0, UNITS.select(0), far, top_of([1, 0], [2, 1]), idle(False, True, True, True)
    )
    assert math.isfinite(made.delta)
    assert made.selectivity.auroc == 1
    assert math.isnan(made.control_selectivity.auroc)
    means = mean_of(made.control.change, made.relevant)
    assert means[-1] is None
    assert means[3] == 0


def test_mean_of_by_hand():
    values = torch.tensor([[1.0, 3.0, 9.0], [1.0, math.nan, 9.0], [1.0, math.inf, 9.0]])
    assert mean_of(values, torch.tensor([True, True, False])) == [2, None, None]
    assert mean_of(values, torch.tensor([False, False, True])) == [9, 9, 9]
    assert mean_of(values, torch.zeros(3, dtype=torch.bool)) == [None] * 3
