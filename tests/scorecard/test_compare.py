"""Two decompositions paired by their codes."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from subscape import compare, decompose
from subscape.lowrank import Stack
from subscape.scorecard.compare import cosines
from subscape.subnetworks.dictionary import Dictionary


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).eval()


@pytest.fixture(scope="module")
def found(model):
    torch.manual_seed(1)
    few = dict(steps=20, batch_size=16, n_subnetworks=4, l0=2.0, rank=1, n_heldout_rows=20)
    return decompose(model, torch.randn(100, 4), progress=False, **few)


def reordered(found, order):
    """The same subnetworks in another order."""
    sides = [Stack(s.layout, s.weights[order].clone()) for s in (found.encoder, found.decoder)]
    selection = found.dictionary.selection
    return replace(found, dictionary=Dictionary(*sides, selection).requires_grad_(False))


def test_the_same_in_another_order_is_paired_with_itself(model, found):
    order = [2, 0, 3, 1]
    result = compare(found, reordered(found, order), model, torch.randn(50, 4))
    assert {(p.a, p.b) for p in result.pairs} == {(k, order.index(k)) for k in range(4)}
    assert [p.cosine for p in result.pairs] == pytest.approx([1] * 4, abs=1e-5)
    active = [p.correlation for p in result.pairs if p.correlation]
    assert active == pytest.approx([1] * len(active))
    assert result.n_rows == 50 and result.only_a == result.only_b == ()
    assert result.agreement.mean == pytest.approx(len(active) / 4)
    assert result.shuffled.mean < 0.5 < result.agreement.stable
    assert "4 pairs over 50 rows" in str(result) and "<table>" in result._repr_html_()


def test_cosines_are_those_of_the_dense_directions(found):
    stack = found.directions
    dense = stack.flat()
    torch.testing.assert_close(cosines(stack, stack), dense @ dense.T)


def test_fewer_subnetworks_and_other_tensors(model, found):
    few = dict(steps=5, batch_size=16, n_subnetworks=2, l0=1.0, rank=1, n_heldout_rows=20)
    x = torch.randn(60, 4)
    other = decompose(model, x, parameters="2", progress=False, **few)
    result = compare(found, other, model, x, n_rows=30)
    assert len(result.pairs) == 2 and len(result.only_a) == 2 and result.only_b == ()
    assert {p.cosine for p in result.pairs} == {None}
    assert set(result.only_a) | {p.a for p in result.pairs} == {0, 1, 2, 3}
    assert result.n_rows == 30


def test_rows_must_be_of_one_kind(found):
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(5, 4), nn.Linear(4, 3)

        def forward(self, ids):
            return self.head(self.table(ids))

    torch.manual_seed(0)
    model, ids = Tokens().eval(), torch.randint(5, (40, 6))
    few = dict(steps=5, batch_size=12, n_subnetworks=2, l0=1.0, rank=1, n_heldout_rows=20)
    by_sample, by_token = (
        decompose(model, ids, rows=rows, parameters="head", progress=False, **few)
        for rows in ("sample", "token")
    )
    with pytest.raises(ValueError, match="b: expected the same rows as the first"):
        compare(by_sample, by_token, model, ids)
