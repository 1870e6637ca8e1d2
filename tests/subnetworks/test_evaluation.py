import pytest
import torch

from subscape import FixedOutput
from subscape.lowrank import Stack, make_layout
from subscape.subnetworks.dictionary import Dictionary
from subscape.subnetworks.evaluation import calibrate, evaluate
from subscape.subnetworks.selection import BatchTopK


def axes(n, *lead):
    weights = torch.eye(n, dtype=torch.float64).expand(*lead, n, n)
    return Stack(make_layout({"w": (n,)}, 1), weights)


def dictionary(l0, encoder=None, decoder=None, cut=None):
    encoder = encoder or axes(2)
    selection = BatchTopK(l0, encoder.weights.shape[:-1], encoder.weights)
    if cut is not None:
        selection.threshold.fill_(cut)
    return Dictionary(encoder, decoder or encoder, selection)


ROWS = [[3.0, 0.0], [0.0, 1.0], [0.0, 2.0], [2.0, 2.0]]


def test_figures_by_hand(source_of):
    # One batch of 4 rows and 2 subnetworks: of 8 pairs 4 are kept, 3, 2, 2, 2; the 1 is lost.
    # FVU = 1 / (9 + 1 + 4 + 8). L0 = 4 active in 4 rows. Rates: subnetwork 0 in two rows, 1 in two.
    source = source_of(ROWS)
    assert source.gradients(source.rows_of(torch.arange(4))).flat.tolist() == ROWS
    for batch_size in (4, 100):  # cut to the rows there are
        found = evaluate(source, dictionary(1.0), n_rows=4, batch_size=batch_size)
        assert float(found.fvu) == float(found.fvu_of_batches) == pytest.approx(1 / 22)
        assert float(found.l0) == 1.0
        assert found.active_rate.tolist() == [0.5, 0.5]
        assert found.n_rows == 4
        assert float(found.dead) == 0.0


def test_batches_are_pooled_and_rows_rounded_up_to_whole_ones(source_of):
    # Two batches of two rows, two of four pairs each. Whatever the order: error over total of all rows;
    # and the mean of every batch's own FVU, in which both count the same.
    source = source_of(ROWS)
    found = evaluate(source, dictionary(1.0), n_rows=3, batch_size=2)
    errors, shares = 0.0, []
    for number in range(2):
        sizes = source.gradients(source.rows(number, 2)).flat.flatten().square()
        errors += float(sizes.sort().values[:2].sum())
        shares.append(float(sizes.sort().values[:2].sum() / sizes.sum()))
    assert found.n_rows == 4
    assert float(found.fvu) == pytest.approx(errors / 22)
    assert float(found.l0) == 1.0
    assert shares[0] != shares[1]
    assert float(found.fvu_of_batches) == pytest.approx(sum(shares) / 2)


def test_a_batch_without_gradients_is_not_in_the_mean_of_batches(source_of):
    # Rows 0 and 1 are null; whatever the order, batches of one null row and one other, or of two of a kind.
    source = source_of([[0.0, 0.0], [0.0, 0.0], [2.0, 1.0], [2.0, 1.0]])
    found = evaluate(source, dictionary(0.5), n_rows=8, batch_size=2)
    # One of four pairs is kept: a single row is left 1 / 5, two of them 1 + 4 + 1 of 10.
    assert float(found.fvu_of_batches) in (pytest.approx(0.2), pytest.approx(0.6))


def test_a_subnetwork_that_never_fires_is_dead(source_of):
    source = source_of([[3.0, 0.1], [2.0, 0.1], [4.0, 0.1], [5.0, 0.1]])
    found = evaluate(source, dictionary(1.0), n_rows=4, batch_size=4)
    assert found.active_rate.tolist() == [1.0, 0.0]
    assert float(found.dead) == 0.5


def test_alone_rows_do_not_influence_each_other(source_of):
    # At least 2: the same four as by hand above, whatever l0 says.
    found = evaluate(source_of(ROWS), dictionary(0.02, cut=2.0), n_rows=4, batch_size=4, alone=True)
    assert float(found.fvu) == pytest.approx(1 / 22)
    assert found.active_rate.tolist() == [0.5, 0.5]


def test_replicas_keep_their_axis(source_of):
    encoder = axes(2, 3)
    weights = encoder.weights.clone()
    weights[2] = weights[2].flip(0)
    made = dictionary(1.0, encoder, Stack(encoder.layout, weights))
    found = evaluate(source_of(ROWS), made, n_rows=4, batch_size=4)
    assert found.fvu.shape == (3,)
    assert found.active_rate.shape == (3, 2)
    torch.testing.assert_close(found.fvu[0], found.fvu[1])
    # The third decoder swaps the axes. (3, 0) becomes (0, 3): 18. (0, 2) becomes (2, 0): 8.
    # (0, 1) is not active: 1. (2, 2) stays. 27 / 22.
    assert float(found.fvu[2]) == pytest.approx(27 / 22)


@pytest.mark.parametrize("batch_size", [2, 4])
def test_the_threshold_keeps_the_share_over_all_batches_together(source_of, batch_size):
    # 8 pairs of sizes 3 2 2 2 1 0 0 0, whatever batches they come in.
    for l0, cut in ((1.0, 2.0), (0.5, 2.0), (0.25, 3.0), (1.25, 1.0)):
        made = dictionary(l0)
        calibrate(made, source_of(ROWS), n_rows=4, batch_size=batch_size)
        assert float(made.selection.threshold) == cut
    three = axes(2, 3)
    weights = three.weights * torch.tensor([1.0, 2.0, 0.5]).double()[:, None, None]
    made = dictionary(0.25, Stack(three.layout, weights))
    calibrate(made, source_of(ROWS), n_rows=4, batch_size=batch_size)
    assert made.selection.threshold.tolist() == [3.0, 6.0, 1.5]


def test_directions_are_turned_to_raise_the_rows_they_are_for(source_of):
    """Coefficients (−3, 1, 1, 0) and (2, −1, 0, −1): third moments −25 and 6, whatever their means say."""
    source = source_of([[-3.0, 2.0], [1.0, -1.0], [1.0, 0.0], [0.0, -1.0]])
    made = dictionary(1.0, Stack(axes(2).layout, axes(2).weights.clone()))
    before = evaluate(source, made, n_rows=4, batch_size=4)
    calibrate(made, source, n_rows=4, batch_size=4)
    for side in (made.encoder, made.decoder):
        assert side.flat().tolist() == [[-1, 0], [0, 1]]
    assert torch.equal(evaluate(source, made, n_rows=4, batch_size=4).fvu, before.fvu)


def test_gradients_that_are_all_zero_are_refused(source_of):
    sources = {
        "not all zero": source_of([[0.0, 0.0]] * 4),
        # Outputs equal to the reference: mse has no slope anywhere.
        "every row equals its reference": source_of(
            [[1.0, 1.0]] * 4, divergence="mse", reference=FixedOutput(torch.zeros(1))
        ),
    }
    for said, source in sources.items():
        with pytest.raises(ValueError, match=f"^gradients: expected .*{said}"):
            evaluate(source, dictionary(1.0), n_rows=4, batch_size=4)
