"""Where the truth is known the scorecard says so, and its controls do not."""

import json
import math
import time

import msgspec
import pytest
import torch

import subscape
from subscape import Scorecard, score
from subscape.scorecard.config import SECTIONS

FEW = dict(
    n_rows=180, n_fit=300, n_agree=480, n_pushed=6, n_attacked=6, n_ascent=20, progress=False
)


@pytest.fixture(scope="module")
def card(truth):
    model, made, inputs, labels = truth
    return score(made, model, inputs, labels=labels, against={"itself": made}, **FEW)


def figures(section, line):
    return {c.name: section.value(line, c.name) for c in section.columns}


def test_every_section_is_made_and_timed(card):
    assert [s.key for s in card.sections] == list(SECTIONS)
    assert all(s.left_out is None for s in card.sections), card
    assert all(s.seconds > 0 for s in card.sections)
    assert all(sum(line.ours for line in s.lines) >= 1 for s in card.sections)


def test_true_subnetworks_explain_all_and_random_ones_do_not(card):
    section = card["reconstruction"]
    assert section.value("subnetworks", "by its encoder") == pytest.approx(0, abs=1e-6)
    assert section.value("subnetworks", "L0") == 1
    # One cluster and one principal direction a feature.
    assert section.value("6 principal directions", "best codes") == pytest.approx(0, abs=1e-6)
    assert section.value("frozen random decoder", "best codes") > 0.5


def test_true_subnetworks_are_for_one_feature_each(card):
    assert card["agreement"].value("subnetworks", "label") == 1
    assert card["agreement"].value("the same rows, shuffled", "label") < 0.5
    assert card["separation"].value("own code", "label") == 1
    assert card["separation"].value("best of 6 neurons", "label") == 1
    assert figures(card["probes"], "subnetworks")["label, 1"] == pytest.approx(1)
    assert card["probes"].value("random directions", "label, 1") < 0.99


def test_pushing_them_moves_their_rows_only(card):
    section = card["selectivity"]
    mine, chance = (figures(section, name) for name in ("subnetworks", "random directions"))
    assert mine["could be pushed"] == 1
    assert mine["ratio"] > 1e3
    assert mine["AUROC"] == pytest.approx(1)
    assert chance["ratio"] < 20


def test_what_is_not_active_moves_nothing(card):
    section = card["adversary"]
    assert section.value("inactive subnetworks", "20 steps") == pytest.approx(0, abs=1e-9)
    assert section.value("as many random directions", "20 steps") > 1e-3
    assert section.value("the row's own active subnetworks", "20 steps") > 1e-3


def test_a_run_is_as_stable_as_can_be_against_itself(card, truth, other_way_round):
    for name, other in (("itself", truth[1]), ("again", other_way_round)):
        made = score(
            truth[1],
            truth[0],
            truth[2],
            against={name: other},
            **FEW,
            leave_out=tuple(k for k in SECTIONS if k != "stability"),
        )
        section = made["stability"]
        assert figures(section, f"with {name}") == pytest.approx({
            "codes correlated ≥ 0.7": 1,
            "mean correlation": 1,
            "mean |cosine|": 1,
        })
        assert section.value("rows shuffled", "codes correlated ≥ 0.7") == 0


def test_a_twin_has_other_weights_and_its_own_figures(card):
    section = card["twin"]
    assert section.value("subnetworks, this model", "agreement, any kind") == 1
    assert 0 <= section.value("subnetworks, random weights", "FVU, best codes") <= 1
    assert "60 training steps." in section.notes[0]


@pytest.mark.parametrize("kind", ["groups", "jumprelu"])
def test_other_selections_are_scored_too(truth, kind):
    model, _, inputs, labels = truth
    options = {"groups": {"group_size": 2}, "jumprelu": {"selection": "jumprelu"}}[kind]
    made = subscape.decompose(
        model,
        inputs[:300],
        heldout=inputs[300:],
        reference="uniform",
        progress=False,
        n_subnetworks=6,
        l0=1.0,
        rank=1,
        steps=30,
        batch_size=32,
        n_heldout_rows=64,
        **options,
    )
    before = {k: v.clone() for k, v in made.dictionary.state_dict().items()}
    card = score(made, model, inputs, labels=labels, against={"itself": made}, **FEW)
    assert card["stability"].value("with itself", "mean |cosine|") == pytest.approx(1)
    assert card["twin"].left_out is None
    # Nothing of the decomposition has changed.
    assert all(torch.equal(v, before[k]) for k, v in made.dictionary.state_dict().items())


def test_the_model_is_left_as_it_was(truth, card):
    truth[1].target_in(truth[0])
    assert not truth[0].training
    assert all(p.grad is None for p in truth[0].parameters())


def test_without_labels_and_other_runs_it_says_what_it_leaves_out(truth):
    model, made, inputs, _ = truth
    card = score(made, model, inputs, **FEW, leave_out=("twin",))
    reasons = {s.key: s.left_out for s in card.sections if s.left_out}
    assert set(reasons) == {"agreement", "separation", "probes", "stability", "twin"}
    assert "no labels" in reasons["agreement"]
    assert "--against" in reasons["stability"]
    assert reasons["twin"] == "as asked"
    assert "left out: as asked" in str(card)


def test_a_decomposition_that_does_not_say_how_it_was_made_has_no_twin(truth):
    from dataclasses import replace

    model, made, inputs, labels = truth
    bare = replace(made, settings={"reference": "uniform"})
    rest = tuple(k for k in SECTIONS if k != "twin")
    assert (
        "does not say"
        in score(bare, model, inputs, labels=labels, **FEW, leave_out=rest)["twin"].left_out
    )


def test_a_decomposition_in_the_metric_of_other_data_has_no_twin(truth):
    from dataclasses import replace

    model, made, inputs, labels = truth
    other = replace(made, settings=made.settings | {"background": "60 samples"})
    rest = tuple(k for k in SECTIONS if k != "twin")
    card = score(other, model, inputs, labels=labels, **FEW, leave_out=rest)
    assert "of other data (60 samples)" in card["twin"].left_out


def test_time_that_is_used_up_leaves_sections_out(truth, monkeypatch):
    clock = (40.0 * i for i in range(1000))
    monkeypatch.setattr(time, "process_time", lambda: next(clock))
    model, made, inputs, labels = truth
    card = score(made, model, inputs, labels=labels, **FEW, minutes=1.0)
    # Every section takes 40 seconds: two begin within a minute.
    assert [s.key for s in card.sections if s.left_out is None] == list(SECTIONS)[:2]
    assert "1 minutes were used up" in card["twin"].left_out


def test_it_is_kept_gone_on_with_and_not_overwritten(truth, tmp_path):
    model, made, inputs, labels = truth
    few = FEW | {"n_pushed": 2, "n_attacked": 2, "n_ascent": 3}
    few |= {"labels": labels, "out": tmp_path / "card"}
    first = score(made, model, inputs, **few, leave_out=("adversary", "twin"))
    assert Scorecard.load(tmp_path / "card") == first
    stamp = (tmp_path / "card" / "scorecard.json").read_bytes()
    # What is there is not made again, what was left out is.
    second = score(made, model, inputs, **few, leave_out=("twin",))
    assert second["reconstruction"] == first["reconstruction"]
    assert second["adversary"].left_out is None
    assert json.loads(stamp)["inputs"] == second.inputs
    with pytest.raises(ValueError, match="of other data, settings or runs"):
        score(made, model, inputs, **few | {"n_rows": 48}, leave_out=("twin",))
    assert Scorecard.load(tmp_path / "card") == second
    third = score(made, model, inputs, **few | {"n_rows": 48}, leave_out=("twin",), overwrite=True)
    assert third.n_rows == 48
    # Another run to compare with is made beside what is there.
    fourth = score(
        made, model, inputs, **few | {"n_rows": 48}, leave_out=("twin",), against={"itself": made}
    )
    assert fourth["loudness"] == third["loudness"]
    assert fourth["stability"].left_out is None


def test_a_twin_that_was_interrupted_goes_on(truth, tmp_path, monkeypatch):
    model, made, inputs, labels = truth
    rest = tuple(k for k in SECTIONS if k != "twin")
    options = FEW | {"labels": labels, "leave_out": rest}
    whole = score(made, model, inputs, **options)["twin"]
    from subscape.scorecard import twin

    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(twin, "lines_of", stopped)
    with pytest.raises(KeyboardInterrupt):
        score(made, model, inputs, **options, out=tmp_path)
    monkeypatch.undo()
    assert len(list(tmp_path.glob("twin-*-60-steps/final/config.json"))) == 1
    assert score(made, model, inputs, **options, out=tmp_path)["twin"].lines == whole.lines
    assert len(list(tmp_path.glob("twin-*"))) == 1
    # With other settings there is another one.
    score(made, model, inputs, **options, out=tmp_path, overwrite=True, seed=1)
    assert len(list(tmp_path.glob("twin-*"))) == 2


def test_nothing_else_is_overwritten(truth, tmp_path):
    (tmp_path / "scorecard.json").write_text('{"format": "mine"}')
    with pytest.raises(FileExistsError):
        score(truth[1], truth[0], truth[2], out=tmp_path, overwrite=True, **FEW)
    assert (tmp_path / "scorecard.json").read_text() == '{"format": "mine"}'


def test_a_damaged_one_is_refused_in_one_line(card, tmp_path):
    card.save(tmp_path)
    file = tmp_path / "scorecard.json"
    assert Scorecard.load(tmp_path) == card
    file.write_text(file.read_text()[:-20])
    with pytest.raises(ValueError, match="Evaluate again"):
        Scorecard.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="subscape evaluate RUN"):
        Scorecard.load(tmp_path / "nowhere")


def test_rows_to_fit_on_can_be_given(truth):
    model, made, inputs, labels = truth
    rest = tuple(k for k in SECTIONS if k != "separation")
    card = score(
        made,
        model,
        inputs[:180],
        fit=inputs[180:],
        labels=labels[:180],
        fit_labels=labels[180:],
        **FEW,
        leave_out=rest,
    )
    assert (card.n_rows, card.n_fit) == (180, 300)
    assert card["separation"].value("own code", "label") == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"labels": torch.zeros(3, dtype=torch.long)},
            "labels: expected a whole number for each of the 480",
        ),
        ({"labels": torch.zeros(480)}, "labels: expected a whole number"),
        ({"leave_out": ("twins",)}, "Did you mean 'twin'"),
        ({"minutes": math.inf}, "minutes: expected a number above 0"),
        ({"n_rows": 0}, "n_rows: expected a whole number of at least 1"),
        ({"n_row": 9}, "Did you mean 'n_rows'"),
    ],
)
def test_wrong_arguments_are_refused(truth, changed, message):
    model, made, inputs, _ = truth
    with pytest.raises(ValueError, match=message):
        score(made, model, inputs, **FEW | changed)


def test_a_notebook_and_json_show_it(card):
    assert "<table>" in card._repr_html_()
    assert json.loads(msgspec.json.encode(card))["sections"][0]["key"] == "reconstruction"
    assert subscape.score is score
