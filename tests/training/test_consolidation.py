"""Fewer subnetworks in the middle of a run."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from subscape import Decomposition, FixedOutput, Pairs, decompose
from subscape.subnetworks import SELECTIONS
from subscape.training import Trainer
from subscape.training.refit import refit
from tests.training.conftest import uniform_source
from tests.training.test_run import CONFIG, assert_same, assert_same_folders, run

MANY: dict[str, Any] = {"consolidate": True, "n_subnetworks": 12}


# Consolidated after 14 of 24 steps; checkpoints are at 5, 10, 15, 20: before it and after it.
@pytest.mark.parametrize("kind", list(SELECTIONS))
@pytest.mark.parametrize("steps", [13, 17])
def test_a_consolidated_run_is_resumed_to_the_bit(planted, tmp_path, steps, kind, interrupted):
    options: dict[str, Any] = {**MANY, "selection": kind}
    whole = run(planted, tmp_path / "whole", **options)
    interrupted(steps, lambda: run(planted, tmp_path / "cut", **options))
    cut = run(planted, tmp_path / "cut", **options)
    assert_same(whole, cut)
    assert_same_folders(tmp_path / "whole", tmp_path / "cut")
    record = whole.metrics["consolidation"]
    assert record["step"] == 14
    assert record["before"] == 12
    assert len(whole) == record["after"] < 12
    assert (
        Decomposition.from_pretrained(tmp_path / "cut" / "final").metrics["consolidation"] == record
    )
    assert whole.dictionary.selection.l0 == pytest.approx(record["l0"])


def test_nothing_changes_where_all_are_of_their_own(planted, monkeypatch):

    # Nothing is replaceable, and all are worth their share and place.
    for name in ("UNIQUE", "SHARE", "WORTH_A_PLACE"):
        monkeypatch.setattr(f"subscape.subnetworks.consolidation.{name}", -1.0)
    monkeypatch.setattr("subscape.training.trainer.CONSOLIDATION_ROWS", 64)
    plain = run(planted, n_restarts=1)
    idle = run(planted, n_restarts=1, consolidate=True)
    assert torch.equal(idle.decoder.weights, plain.decoder.weights)
    assert torch.equal(idle.encoder.weights, plain.encoder.weights)
    assert idle.metrics["consolidation"]["gone"] == []


def test_what_goes_takes_its_moments_with_it(planted):
    config = replace(CONFIG, n_subnetworks=12, n_restarts=2)
    made = Trainer([uniform_source(planted)], config)
    for _ in range(14):
        made.step()
    one = made.consolidated(0)
    record = one.consolidation
    kept, n = record["kept"], record["after"]
    assert one.step_number == 14
    assert one.dictionary.decoder_weights.shape[:3] == (1, 1, n)
    for mine, theirs in zip(one.dictionary.parameters(), made.dictionary.parameters(), strict=True):
        moments, before = one.optimiser.state[mine], made.optimiser.state[theirs]
        assert moments["step"] == 14
        assert torch.equal(moments["exp_avg"][0, 0], before["exp_avg"][0, record["restart"]][kept])
    norms = one.dictionary.decoder.flat().norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones_like(norms))
    one.step()


def test_a_refit_goes_on_from_where_it_stands(planted):
    made = run(planted, n_restarts=1)
    options: dict[str, Any] = {"reference": "uniform", "progress": False}
    same = refit(made, planted.model, planted.data, steps=0, **options)
    assert torch.equal(same.decoder.weights, made.decoder.weights)
    assert same.metrics["fvu"] == pytest.approx(made.metrics["fvu"])
    further = refit(made, planted.model, planted.data, steps=40, **options)
    assert further.metrics["fvu"] < made.metrics["fvu"]
    assert len(further) == len(made)
    # Nothing was merged or dropped, and nothing says so.
    assert "consolidation" not in further.metrics


def test_a_refit_compares_every_sample_with_its_own_pair(planted, unchecked):
    options: dict[str, Any] = {"reference": Pairs(planted.data.sum(2)), "progress": False}
    made = decompose(planted.model, planted.data, config=CONFIG, **options)
    same = refit(made, planted.model, planted.data, steps=0, **options)
    assert same.metrics["fvu"] == pytest.approx(made.metrics["fvu"])
    assert torch.equal(same.threshold, made.threshold)


def test_a_refit_is_on_rows_of_the_kind_that_was_trained_on(words, unchecked):
    source = words("sampled-token")
    options: dict[str, Any] = {"divergence": "kl", "rows": "sampled-token", "recipe": "published"}
    # Batches of 16 are no whole number of sequences of 3.
    made = decompose(source.target, source.data, config=CONFIG, progress=False, **options)
    same = refit(made, source.target, source.data, steps=0, progress=False)
    assert same.metrics["fvu"] == pytest.approx(made.metrics["fvu"])
    assert same.metrics["heldout_rows"] == made.metrics["heldout_rows"]


def test_a_refit_keeps_the_mean_and_the_metric(planted, unchecked):
    made = decompose(planted.model, planted.data, config=CONFIG, progress=False)
    assert isinstance(made.reference, FixedOutput)
    same = refit(made, planted.model, planted.data, steps=0, progress=False)
    assert same.reference is made.reference
    assert same.geometry is made.geometry
    assert same.metrics["fvu"] == pytest.approx(made.metrics["fvu"])


@pytest.mark.parametrize("kind", list(SELECTIONS))
def test_a_decomposition_of_any_selection_is_consolidated_afterwards(planted, kind):
    made = run(planted, **MANY | {"selection": kind, "consolidate": False, "n_restarts": 1})
    options: dict[str, Any] = {"reference": "uniform"}
    smaller = made.consolidated(planted.model, planted.data, **options)
    assert len(smaller) == smaller.metrics["consolidation"]["after"] < 12
    further = refit(smaller, planted.model, planted.data, steps=4, progress=False, **options)
    assert len(further) == len(smaller)


def test_groups_are_not_consolidated_afterwards_either(planted):
    made = run(planted, n_subnetworks=4, group_size=2, n_restarts=1)
    with pytest.raises(ValueError, match="groups"):
        made.consolidated(planted.model, planted.data, reference="uniform")
    refitted = refit(
        made, planted.model, planted.data, steps=2, progress=False, reference="uniform"
    )
    assert refitted.group_size == 2
