"""One subnetwork's card, where all of it can be said by hand."""

import math

import pytest
import torch
from torch import nn

from subscape import Target
from subscape.divergences import MSE
from subscape.lowrank import Stack, make_layout
from subscape.measures import Impact, RowSet, TopRows
from subscape.measures.card import Scene, card
from subscape.measures.record import OutputEffect, TopOutputs, TopSample
from subscape.subnetworks.neighbours import Neighbours


class Diagonal(nn.Module):
    """f(x) = w · x, entry by entry: subnetwork j is w_j and moves output j by δ x_j."""

    def __init__(self, cut=math.inf):
        super().__init__()
        self.w = nn.Parameter(torch.ones(3, dtype=torch.float64))
        self.cut = cut

    def forward(self, x):
        return torch.where(self.w.abs() < self.cut, self.w * x, math.inf)


OTHERS = torch.tensor([False, True, True, True])
LAYOUT = make_layout({"w": (3,)}, 1)
UNITS = Stack(LAYOUT, torch.eye(3, dtype=torch.float64))
# Rows 0, 1 have the first feature, 2 to 4 the second; the third is in none.
DATA = torch.tensor([[1.0, 0, 0], [2, 0, 0], [0, 1, 0], [0, 2, 0], [0, 3, 0]]).double()


def scene_of(others=(0, 2, 3, 4), size=0.5, **options):
    target, rows = Target(Diagonal(**options)), RowSet(torch.tensor(others))
    sizes = dict(size=size, n_deltas=3, n_outputs=2, logits=False)
    return Scene(target=target, data=DATA, divergence=MSE, others=rows, **sizes)


def top_of(samples, impact):
    values = torch.tensor(impact, dtype=torch.float64)
    return TopRows(RowSet(torch.tensor(samples, dtype=torch.long)), values, values)


def card_of(scene, top, which, control=None):
    one = torch.tensor([2.0])
    alone = Neighbours.of([one[None]])
    parts = one, -one, one * math.nan, one / 4, alone, (top,)
    found = Impact(*parts, n_rows=9, n_references=3)
    return card(scene, 0, UNITS.select(0), control or UNITS.select(1), found, which)


def test_a_card_by_hand():
    """Along w₀ rows 1 and 0 change by (2δ)²/3 and δ²/3; 5δ²/6 = 0.5 at δ = 0.77. Others stay."""
    made = card_of(scene_of(), top_of([1, 0], [2, 1]), OTHERS)
    assert (made.index, made.impact, made.impact_signed, made.active_rate) == (0, 2, -2, 0.5)
    assert made.impact_normalised is None
    assert made.tensors == (1,)
    assert made.partners == ()
    assert 0.45 <= 5 * made.delta**2 / 6 <= 0.55
    d = made.delta
    sweep = made.sweep
    assert sweep.delta == pytest.approx((-d, -d / 2, -d / 4, 0.0, d / 4, d / 2, d), rel=1e-5)
    # Means over the two top rows; the others stay, and along the control, w₁, the top rows do.
    assert sweep.relevant == pytest.approx([5 * e * e / 6 for e in sweep.delta], rel=1e-5)
    assert sweep.irrelevant == sweep.random == (0,) * 7
    chosen = made.selectivity
    assert (chosen.delta, chosen.ratio, chosen.auroc, chosen.auroc_random) == (d, None, 1, 0)
    # Means over the two rows: output 0 by (2 + 1)/2; each row by its own input.
    assert made.top_outputs == TopOutputs(up=(OutputEffect(0, 1.5),))
    assert made.top_samples == (
        TopSample(1, None, 2.0, 2.0, TopOutputs(up=(OutputEffect(0, 2.0),))),
        TopSample(0, None, 1.0, 1.0, TopOutputs(up=(OutputEffect(0, 1.0),))),
    )
    assert repr(made) == "SubnetworkMeasures(0: active in 50.0% of rows, impact 2, AUROC 1.00)"


def test_the_validity_radius_is_that_of_the_sweep():
    """Rows 1, 0 with references 0 and 1's outputs: see the sweep's drift and its slopes by hand.

    Row (2, 0, 0) to y = (1, 0, 0): D = (2w − 1)²/3, slope 4/3, curvature 4δ²/3.
    Row (1, 0, 0) to y = (2, 0, 0), the roll of two rows: slope −2/3, curvature δ²/3.
    """
    made = card_of(scene_of(others=(2, 3)), top_of([1, 0], [2, 1]), torch.tensor([False, False]))
    assert made.selectivity is None  # no row is irrelevant
    assert made.sweep.irrelevant == (None,) * 7

    def r_squared(d):
        predicted = [s * e for e in (-d, d) for s in (4 / 3, -2 / 3)]
        actual = [s * e + c * e * e for e in (-d, d) for s, c in ((4 / 3, 4 / 3), (-2 / 3, 1 / 3))]
        mean = sum(actual) / 4
        rest = sum((a - p) ** 2 for a, p in zip(actual, predicted, strict=True))
        return 1 - rest / sum((a - mean) ** 2 for a in actual)

    d = made.delta
    valid = [s for s in (d / 4, d / 2, d) if r_squared(s) >= 0.9]
    assert 0 < len(valid) < 3
    assert made.validity_radius == pytest.approx(max(valid), rel=1e-5)


def test_a_top_row_is_not_irrelevant_too():
    """Row 0 is among the others: as an irrelevant row it would change."""
    made = card_of(scene_of(), top_of([1, 0], [2, 1]), torch.tensor([True, True, True, True]))
    assert made.sweep.irrelevant == (0,) * 7
    assert made.selectivity.auroc == 1


@pytest.mark.parametrize("top", [top_of([], []), top_of([1], [0.0])])
def test_without_impact_nothing_is_pushed(top):
    made = card_of(scene_of(), top, OTHERS)
    pushed = (made.top_outputs, made.delta, made.sweep, made.selectivity, made.validity_radius)
    assert pushed == (None,) * 5
    assert [row.outputs for row in made.top_samples] == [None] * len(top.rows)
    assert repr(made) == "SubnetworkMeasures(0: active in 50.0% of rows, impact 2)"


def test_a_change_that_is_never_reached():
    """|δ| can be ‖w‖ = √3 at most, which changes the rows by 5·3/6 = 2.5."""
    made = card_of(scene_of(size=3.0), top_of([1, 0], [2, 1]), OTHERS)
    assert made.delta is None
    assert made.sweep is None
    assert made.top_outputs is not None


def test_a_control_that_leaves_the_finite_is_not_zero():
    """At w = 1.5 and beyond outputs are infinite; the second moves twice as far as the first."""
    far = Stack(LAYOUT, torch.tensor([0.0, 4.0, 0.0]).double())
    which = OTHERS
    made = card_of(scene_of(size=0.1, cut=1.5), top_of([1, 0], [2, 1]), which, far)
    assert made.delta is not None
    assert made.selectivity.auroc == 1
    assert made.selectivity.auroc_random is None
    assert made.sweep.random[-1] is None
    assert made.sweep.random[3] == 0
