import pytest
import torch

from subscape.lowrank import Stack, make_layout
from subscape.lowrank.project import project
from subscape.subnetworks.consolidation import consolidate, summary, worths
from subscape.subnetworks.sparse_codes import codes_of, pursuit

E = torch.eye(4, dtype=torch.float64)


def rows(*sizes, each=8):
    """`each` rows along every axis, as long as given."""
    return torch.cat([size * E[i].expand(each, 4) for i, size in enumerate(sizes)])


def unit(*direction):
    direction = torch.tensor(direction, dtype=torch.float64)
    return direction / direction.norm()


def consolidated(gradients, *directions, l0=1.0):
    v = torch.stack(directions)
    return consolidate(gradients @ v.mT, v @ v.mT, lambda _: l0)


def test_of_two_equal_directions_one_is_left():
    found = consolidated(rows(3.0, 2.0), E[0], E[0], E[1])
    assert found.kept == [0, 2]
    (gone,) = found.gone
    # The codes are all the first one's: the second is never active.
    assert (gone.subnetwork, gone.unique, gone.share) == (1, 0, 0)
    assert gone.cosine == pytest.approx(1)
    # Many copies do not go together, so that one of each stays.
    assert consolidated(rows(3.0, 2.0), *[E[0]] * 30, *[E[1]] * 30).kept == [0, 30]


def test_two_halves_of_one_circuit_become_the_direction_between_them():
    # Rows along x + y/2 and x - y/2 in turn, and others along z: either half explains (3/5)² of the other's.
    halves = [unit(2, 1, 0, 0), unit(2, -1, 0, 0)]
    g = torch.cat([half.expand(8, 4) for half in halves] + [E[2].expand(16, 4)])
    found = consolidated(g, *halves, E[2])
    # A half lost costs 1 - 9/25 = .64 of its use, less than .8.
    assert len(found.kept) == 2
    (gone,) = found.gone
    assert gone.merged_into == 1 - gone.subnetwork
    assert gone.cosine == pytest.approx(3 / 5)
    assert found.parts[1] == {2: 1.0}
    v = torch.stack([*halves, E[2]])
    union = torch.stack([sum(w * v[k] for k, w in parts.items()) for parts in found.parts])
    # What both rebuild has its most energy along x: each with (4/5) along x, (1/5) along y.
    torch.testing.assert_close(union[0].abs(), E[0])
    torch.testing.assert_close(union[1], E[2])


def test_a_dead_one_is_dropped():
    found = consolidated(rows(3.0, 2.0), E[0], E[3], E[1])
    assert found.kept == [0, 2]
    (gone,) = found.gone
    assert (gone.subnetwork, gone.merged_into, gone.unique, gone.share) == (1, None, 0, 0)
    assert summary(found.record()) == "3 subnetworks → 2 (0 merged, 1 dropped)"


def test_what_explains_less_than_a_quarter_of_its_share_is_dropped_and_what_explains_more_stays():
    # Of rows with squares 9, 9 and c² a fair share is (18 + c²) / 3; c² = 18/11 is a quarter of it.
    for square, left in ((1.5, [0, 1]), (1.8, [0, 1, 2])):
        found = consolidated(rows(3.0, 3.0, square**0.5), *E[:3])
        assert found.kept == left


def test_nothing_changes_where_all_are_of_their_own():
    found = consolidated(rows(3.0, 2.0, 2.5), *E[:3])
    assert (found.kept, found.gone, found.l0) == ([0, 1, 2], [], 1.0)
    assert found.parts == [{0: 1.0}, {1: 1.0}, {2: 1.0}]
    stack = Stack(make_layout({"w": (4,)}, 1), E[:3])
    assert torch.equal(found.applied_to(stack).weights, stack.weights)


def test_places_that_bring_nothing_are_not_filled():
    # One is active in every row: of the two places asked for the second explains nothing.
    assert consolidated(rows(3.0, 2.0, 2.5), *E[:3], l0=2.0).l0 == 1.0
    # A second one of a hundredth of the first is not worth its place, one of a tenth is.
    for square, l0 in ((0.01, 1.0), (0.1, 2.0)):
        g = torch.stack([E[0] + square**0.5 * E[1], E[1] + square**0.5 * E[0]]).repeat(8, 1)
        assert consolidated(g, E[0], E[1], l0=2.0).l0 == l0


def test_the_last_one_stays():
    found = consolidated(rows(3.0), E[0])
    assert (found.kept, found.gone) == ([0], [])
    # Of no use at all, yet a decomposition is never empty.
    assert len(consolidated(rows(3.0), E[1], E[2]).kept) == 1


def test_what_a_subnetwork_is_worth_is_what_the_best_codes_of_the_others_leave():
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(5, 7, generator=generator).double()
    v = v / v.norm(dim=1, keepdim=True)
    g = torch.randn(40, 7, generator=generator).double()
    found = worths(g @ v.mT, v @ v.mT, 1.5)
    codes = found.codes
    # Least squares: what is left is orthogonal to every active direction.
    left = ((g - codes @ v) @ v.mT)[codes != 0]
    torch.testing.assert_close(left, torch.zeros_like(left), atol=1e-9, rtol=0)
    assert (codes != 0).sum() == 60
    assert (found.lost >= 0).all()


def test_codes_of_rows_are_those_of_least_squares():
    generator = torch.Generator().manual_seed(1)
    v = torch.randn(4, 6, generator=generator).double()
    v = v / v.norm(dim=1, keepdim=True)
    g = torch.randn(3, 6, generator=generator).double()
    chosen = pursuit(g @ v.mT, v @ v.mT, 3).chosen
    codes = codes_of(g @ v.mT, v @ v.mT, chosen, torch.tensor([0, 1, 3]))
    for row, n in enumerate((0, 1, 3)):
        at = chosen[row, :n]
        expected = torch.zeros(4).double()
        if n:
            expected[at] = torch.linalg.lstsq(v[at].mT, g[row]).solution
        torch.testing.assert_close(codes[row], expected)


def test_a_merged_direction_keeps_its_rank_and_its_unit_norm():
    # Of rank 1: the halves a ⊗ (b ± c/2) become a ⊗ b.
    layout = make_layout({"w": (2, 2)}, 1)
    halves = torch.stack([unit(2, 1, 0, 0), unit(2, -1, 0, 0)])
    stack = project(layout, torch.cat([halves, E[2:3]]))
    g = torch.cat([halves[0].expand(8, 4), halves[1].expand(8, 4), E[2].expand(16, 4)])
    v = stack.flat()
    found = consolidate(g @ v.mT, v @ v.mT, lambda _: 1.0)
    merged = found.applied_to(stack, normalise=True)
    assert merged.layout == layout
    torch.testing.assert_close(merged.flat().abs(), E[[0, 2]])
