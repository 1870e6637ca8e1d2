"""Padded positions are no rows: the same gradients, means, metric and measures as without padding."""

import math

import pytest
import torch

from subscape import GradientSource, Target, decompose, measure
from subscape.measures.impact import impact
from subscape.rows import RowDraws
from subscape.scorecard.kinds import UNKNOWN, kinds_of
from subscape.scorecard.score import score
from subscape.training import TrainingConfig
from tests.conftest import tiny

N, LENGTH, EXTRA = 10, 4, 3
WHITENED = {"reference": "mean", "row_weight": "unit", "metric": "kronecker"}
CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def texts(amounts=(0, 0)):
    """Token ids of one length with a mask, and so much padding in front and behind."""
    ids = torch.randint(1, 11, (N, LENGTH), generator=torch.Generator().manual_seed(3))
    data = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return {name: torch.nn.functional.pad(values, amounts) for name, values in data.items()}


def source(data, rows="token", *, engine="auto", **options):
    torch.manual_seed(0)
    target = Target(tiny("llama").double(), "model.layers.1.mlp")
    given = WHITENED | {"divergence": "kl"} | options
    return GradientSource(target, data, rows=rows, engine=engine, seed=2, **given)


@pytest.mark.parametrize("engine", ["rule", "replay", "vmap", "loop"])
def test_gradients_mean_and_metric_are_those_of_the_texts_without_padding(engine):
    plain, padded = source(texts(), engine=engine), source(texts((0, EXTRA)), engine=engine)
    assert padded.n_rows == plain.n_rows == N * LENGTH
    torch.testing.assert_close(padded.reference.output, plain.reference.output, **CLOSE)
    one, other = (s.gradients(s.rows(0, N * s.draws.per_sample)).flat for s in (plain, padded))
    assert len(other) == N * LENGTH
    torch.testing.assert_close(other, one, **CLOSE)


def test_in_micro_batches_too():
    padded = source(texts((0, EXTRA)))
    rows = padded.rows(0, N * (LENGTH + EXTRA))
    parts = padded.gradients(rows, micro_batch_size=8)
    torch.testing.assert_close(parts.flat, padded.gradients(rows).flat, **CLOSE)


@pytest.fixture(scope="module")
def run():
    """A model, padded texts, and a decomposition of it on them."""
    torch.manual_seed(0)
    model, padded = tiny("llama").double(), texts((0, EXTRA))
    found = decompose(
        model,
        padded,
        heldout=padded | {"input_ids": padded["input_ids"] % 10 + 1},
        parameters="model.layers.1.mlp",
        divergence="kl",
        rows="token",
        config=TrainingConfig(n_subnetworks=4, rank=1, l0=2.0, steps=3, batch_size=28),
        progress=False,
    )
    return model, padded, found


def test_impact_is_that_of_the_texts_without_padding(run):
    model, padded, found = run
    one, other = (
        impact(found, found.source(model, data), progress=False) for data in (texts(), padded)
    )
    assert other.n_rows == N * LENGTH
    assert torch.equal(other.coactivation.others, one.coactivation.others)
    for name in ("mean", "signed", "active_rate"):
        torch.testing.assert_close(getattr(other, name), getattr(one, name), **CLOSE)
    for mine, theirs in zip(one.top, other.top, strict=True):
        assert torch.equal(mine.rows.samples, theirs.rows.samples)
        assert torch.equal(mine.rows.position, theirs.rows.position)


def test_measures_point_to_tokens_only(run):
    model, padded, found = run
    few = {"n_references": 1, "n_others": 4, "n_deltas": 2, "n_top": 2}
    result = measure(found, model, padded, progress=False, **few)
    positions = [s.position for k in result for s in k.top_samples]
    assert positions and max(positions) < LENGTH


def test_the_scorecard_is_that_of_the_texts_without_padding(run):
    model, padded, found = run
    known = found.source(model, padded, seed=0)
    labels = torch.arange(N * (LENGTH + EXTRA)).view(N, -1) % 3
    settings = {"n_references": 1, "n_pushed": 2, "n_attacked": 1, "n_ascent": 2}
    # All rows are of one length: which of them are the loudest is rounding.
    settings["leave_out"] = ("twin", "loudness")
    one, other = (
        score(found, model, data, labels=given, token_names=str, progress=False, **settings)
        for data, given in ((texts(), labels[:, :LENGTH]), (padded, labels))
    )
    # Five samples to score and five to fit on; padding in neither.
    assert (other.n_rows, other.n_fit) == (one.n_rows, one.n_fit)
    assert other.n_rows + other.n_fit == known.n_rows == N * LENGTH
    pairs = list(zip(one.sections, other.sections, strict=True))
    assert {a.key for a, _ in pairs if a.left_out is None} >= {"agreement", "selectivity"}
    for mine, theirs in pairs:
        assert (mine.left_out, mine.notes) == (theirs.left_out, theirs.notes)
        for a, b in zip(mine.lines, theirs.lines, strict=True):
            assert a.name == b.name
            given, expected = ([math.nan if v is None else v for v in x.values] for x in (b, a))
            assert given == pytest.approx(expected, rel=1e-6, nan_ok=True)


def test_what_comes_next_of_the_last_token_is_not_known(run):
    model, padded, found = run
    source = found.source(model, padded)
    kinds = kinds_of(source, torch.tensor([7, 2]), None, None)
    ids = padded["input_ids"][[7, 2], :LENGTH]
    assert kinds["token"].tolist() == ids.flatten().tolist()
    assert kinds["next token"].view(2, LENGTH)[:, -1].tolist() == [UNKNOWN, UNKNOWN]
    assert torch.equal(kinds["next token"].view(2, LENGTH)[:, :-1], ids[:, 1:])


def draws(kind="token"):
    # Lengths 2, 1 and 3 of 3, padded on either side.
    mask = torch.tensor([[0, 1, 1], [1, 0, 0], [1, 1, 1]]).bool()
    return RowDraws(3, kind, 3, 0, mask)


def test_token_rows_are_the_tokens_of_every_sample():
    rows = draws().of_samples(torch.tensor([2, 1, 0]), draw=0)
    assert rows.samples.tolist() == [2, 2, 2, 1, 0, 0]
    assert rows.position.tolist() == [0, 1, 2, 0, 1, 2]
    assert rows.groups == (6,)
    assert rows.sample_of_each.tolist() == [2, 1, 0]
    assert rows.place.tolist() == [0, 1, 2, 3, 7, 8]
    values = torch.arange(1.0, 7)
    assert rows.at_every_place(values).tolist() == [1, 2, 3, 4, 0, 0, 0, 5, 6]
    assert draws().n_rows == 6


def test_sampled_positions_are_tokens_each_as_often_as_the_others():
    samples = torch.tensor([0, 1, 2]).repeat(3000)
    position = draws("sampled-token").of_samples(samples, draw=1).position.view(-1, 3)
    counts = [torch.bincount(column, minlength=3).tolist() for column in position.T]
    assert counts[0][0] == 0 and counts[1] == [3000, 0, 0]
    # Standard deviation 26 for a third of 3,000 draws, 27 for a half.
    assert all(abs(n - 1500) < 130 for n in counts[0][1:])
    assert all(abs(n - 1000) < 130 for n in counts[2])


def test_samples_of_padding_only_are_refused():
    data = texts()
    data["attention_mask"][3] = 0
    with pytest.raises(ValueError, match=r"1 of 10 samples that are padding only"):
        source(data, reference="uniform", metric="euclidean")
