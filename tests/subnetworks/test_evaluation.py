import pytest
import torch
from torch import Tensor, nn

from subscape import FixedOutput, GradientSource, Target
from subscape.lowrank import Stack, make_layout
from subscape.subnetworks.evaluation import evaluate, inference_threshold


class Weights(nn.Module):
    """f(x) = w · x, so that with a divergence of f itself a row's gradient is its input."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(n, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.w)[:, None]


def output_itself(outputs: Tensor, reference: Tensor) -> Tensor:
    return outputs[:, 0]


def source_of(rows: list[list[float]]) -> GradientSource:
    """A source whose row gradients are the rows given."""
    data = torch.tensor(rows, dtype=torch.float64)
    return GradientSource(
        Target(Weights(data.shape[1])), data, divergence=output_itself, reference="uniform"
    )


def axes(n: int, *lead: int) -> Stack:
    weights = torch.eye(n, dtype=torch.float64).expand(*lead, n, n)
    return Stack(make_layout({"w": (n,)}, 1), weights)


ROWS = [[3.0, 0.0], [0.0, 1.0], [0.0, 2.0], [2.0, 2.0]]


def test_the_source_gives_the_rows():
    source = source_of(ROWS)
    batch = source.rows_at(torch.arange(4), draw=0)
    assert source.gradients(batch).flat.tolist() == ROWS


def test_figures_by_hand():
    # One batch of 4 rows and 2 subnetworks: half of 8 pairs are kept, 3, 2, 2, 2; the 1 is lost.
    # FVU = 1 / (9 + 1 + 4 + 8). L0 = 4 active in 4 rows. Rates: subnetwork 0 in two rows, 1 in two.
    found = evaluate(source_of(ROWS), axes(2), axes(2), 0.5, n_rows=4, batch_size=4)
    assert float(found.fvu) == pytest.approx(1 / 22)
    assert float(found.l0) == 1.0
    assert found.active_rate.tolist() == [0.5, 0.5]
    assert found.n_rows == 4
    assert float(found.dead) == 0.0


def test_batches_are_pooled_and_rows_rounded_up_to_whole_ones():
    # Two batches of two rows, two of four pairs each. Whatever the order: error over total of all rows.
    source = source_of(ROWS)
    found = evaluate(source, axes(2), axes(2), 0.5, n_rows=3, batch_size=2)
    errors = 0.0
    for number in range(2):
        sizes = source.gradients(source.batch(number, 2)).flat.flatten().square()
        errors += float(sizes.sort().values[:2].sum())
    assert found.n_rows == 4
    assert float(found.fvu) == pytest.approx(errors / 22)
    assert float(found.l0) == 1.0


def test_every_batch_counts_the_same_in_the_mean_of_batches():
    # Two batches of two rows; each one's own FVU, then their mean.
    source = source_of(ROWS)
    found = evaluate(source, axes(2), axes(2), 0.5, n_rows=4, batch_size=2)
    shares = []
    for number in range(2):
        sizes = source.gradients(source.batch(number, 2)).flat.flatten().square()
        shares.append(float(sizes.sort().values[:2].sum() / sizes.sum()))
    assert shares[0] != shares[1]
    assert float(found.fvu_of_batches) == pytest.approx(sum(shares) / 2)
    whole = evaluate(source, axes(2), axes(2), 0.5, n_rows=4, batch_size=4)
    assert float(whole.fvu_of_batches) == pytest.approx(float(whole.fvu))


def test_a_batch_without_gradients_is_not_in_the_mean_of_batches():
    # Rows 0 and 1 are null; whatever the order, batches of one null row and one other, or of two of a kind.
    source = source_of([[0.0, 0.0], [0.0, 0.0], [2.0, 1.0], [2.0, 1.0]])
    found = evaluate(source, axes(2), axes(2), 0.25, n_rows=8, batch_size=2)
    # One of four pairs is kept: a single row is left 1 / 5, two of them 1 + 4 + 1 of 10.
    assert float(found.fvu_of_batches) in (pytest.approx(0.2), pytest.approx(0.6))


def test_a_subnetwork_that_never_fires_is_dead():
    source = source_of([[3.0, 0.1], [2.0, 0.1], [4.0, 0.1], [5.0, 0.1]])
    found = evaluate(source, axes(2), axes(2), 0.5, n_rows=4, batch_size=4)
    assert found.active_rate.tolist() == [1.0, 0.0]
    assert float(found.dead) == 0.5


def test_with_a_threshold_rows_do_not_influence_each_other():
    source = source_of(ROWS)
    cut = torch.tensor(2.0).double()
    found = evaluate(source, axes(2), axes(2), 0.01, n_rows=4, batch_size=4, threshold=cut)
    # At least 2: the same four as by hand above, whatever the fraction says.
    assert float(found.fvu) == pytest.approx(1 / 22)
    assert found.active_rate.tolist() == [0.5, 0.5]


def test_replicas_keep_their_axis():
    encoder = axes(2, 3)
    weights = encoder.weights.clone()
    weights[2] = weights[2].flip(0)
    found = evaluate(
        source_of(ROWS), axes(2, 3), Stack(encoder.layout, weights), 0.5, n_rows=4, batch_size=4
    )
    assert found.fvu.shape == (3,)
    assert found.active_rate.shape == (3, 2)
    torch.testing.assert_close(found.fvu[0], found.fvu[1])
    # The third decoder swaps the axes. (3, 0) becomes (0, 3): 18. (0, 2) becomes (2, 0): 8.
    # (0, 1) is not active: 1. (2, 2) stays. 27 / 22.
    assert float(found.fvu[2]) == pytest.approx(27 / 22)


def test_a_batch_larger_than_the_data_is_cut():
    found = evaluate(source_of(ROWS), axes(2), axes(2), 0.5, n_rows=4, batch_size=100)
    assert found.n_rows == 4
    assert float(found.fvu) == pytest.approx(1 / 22)


def test_the_threshold_keeps_the_share_over_all_batches_together():
    # 8 pairs of sizes 3 2 2 2 1 0 0 0. Half: 4 are kept, the smallest is 2. A quarter: 2 are kept,
    # 3 and 2. An eighth: 3 alone.
    for k, cut in ((0.5, 2.0), (0.25, 2.0), (0.125, 3.0), (0.625, 1.0)):
        found = inference_threshold(source_of(ROWS), axes(2), k, n_rows=4, batch_size=2)
        assert float(found) == cut


def test_the_threshold_is_of_every_replica():
    encoder = axes(2, 3)
    weights = encoder.weights * torch.tensor([1.0, 2.0, 0.5]).double()[:, None, None]
    found = inference_threshold(
        source_of(ROWS), Stack(encoder.layout, weights), 0.125, n_rows=4, batch_size=4
    )
    assert found.tolist() == [3.0, 6.0, 1.5]


def test_gradients_that_are_all_zero_are_refused():
    with pytest.raises(ValueError, match="gradients: expected row gradients that are not all zero"):
        evaluate(source_of([[0.0, 0.0]] * 4), axes(2), axes(2), 0.5, n_rows=4, batch_size=4)


def test_fixed_references_can_make_all_gradients_zero():
    # Outputs equal to the reference: mse has no slope anywhere.
    data = torch.ones(4, 2).double()
    model = Weights(2)
    reference = FixedOutput(torch.zeros(1))
    source = GradientSource(Target(model), data, reference=reference)
    with pytest.raises(ValueError, match="every row equals its reference"):
        evaluate(source, axes(2), axes(2), 0.5, n_rows=4, batch_size=4)
