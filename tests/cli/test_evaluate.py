"""`subscape evaluate`: a scorecard in the run folder, on a classifier and on a language model."""

import json

import pytest
from safetensors.torch import load_file, save_file

from subscape.scorecard import Scorecard

FEW = [
    "--n-rows",
    "36",
    "--n-fit",
    "48",
    "--n-agree",
    "120",
    "--n-references",
    "2",
    "--n-pushed",
    "2",
    "--n-attacked",
    "2",
    "--n-ascent",
    "3",
]
QUICK = [*FEW, "--leave-out", "twin"]
SLOWER = ["agreement", "selectivity", "separation", "probes", "stability", "adversary", "twin"]
"""Sections that a test of no section does without."""
LEAST = [*FEW, "--leave-out", *SLOWER]


def test_a_classifier_is_scored_by_its_labels(folder, command):
    text = command("evaluate", "net", *QUICK)
    assert "Agreement" in text
    assert "subscape report net -o report.html" in text
    card = Scorecard.load("net/scorecard")
    assert [c.name for c in card["agreement"].columns] == ["label"]
    # The run's held-out data are scored, those trained on have no labels.
    assert (card.n_rows, card.n_fit) == (36, 48)
    assert "subscape measure: AUROC" in card["selectivity"].notes[1]
    assert "nothing is known" in card["separation"].left_out


def test_a_language_model_is_scored_by_tokens_and_compared(folder, command):
    printed = json.loads(command("evaluate", "stories", "--against", "stories", "--json", *QUICK))
    assert printed["out"] == "stories/scorecard"
    card = Scorecard.load("stories/scorecard")
    assert [c.name for c in card["agreement"].columns] == [
        *("token", "next token", "word class", "any of these")
    ]
    assert card["stability"].value("with stories", "mean |cosine|") == pytest.approx(1)
    assert printed["sections"][0]["key"] == "reconstruction"
    assert "inactive subnetworks" in str(card["adversary"])


def test_a_twin_is_trained_as_the_run_was(folder, command):
    rest = [
        "reconstruction",
        "loudness",
        *(name for name in SLOWER if name not in ("agreement", "twin")),
    ]
    command("evaluate", "stories", *FEW, "--leave-out", *rest)
    section = Scorecard.load("stories/scorecard")["twin"]
    assert "20 training steps." in section.notes[0]
    assert section.value("subnetworks, random weights", "FVU, best codes") > 0


def test_the_report_shows_it(folder, command, refused):
    command("report", "net", "-o", "without.html")
    command("evaluate", "net", *LEAST)
    command("report", "net", "-o", "with.html")
    title = "Loudness: how much of"
    assert title in (folder / "with.html").read_text()
    assert title not in (folder / "without.html").read_text()
    # Of another decomposition it is none of this report's.
    text = (folder / "net/scorecard/scorecard.json").read_text()
    mine = Scorecard.load("net/scorecard").decomposition
    (folder / "net/scorecard/scorecard.json").write_text(text.replace(mine, "another one"))
    assert "subscape evaluate RUN --overwrite" in refused("report", "net", "-o", "other.html")


def test_another_scorecard_is_not_overwritten_unasked(folder, refused, command):
    command("evaluate", "net", *LEAST)
    before = (folder / "net/scorecard/scorecard.json").read_bytes()
    again = [*LEAST, "--seed", "1"]
    assert "--overwrite" in refused("evaluate", "net", *again)
    assert (folder / "net/scorecard/scorecard.json").read_bytes() == before
    command("evaluate", "net", *again, "--overwrite")
    assert Scorecard.load("net/scorecard").settings.seed == 1


def test_what_training_set_aside_is_scored_where_nothing_was_held_out(folder, command):
    x = load_file("x.safetensors")
    save_file({"inputs": x["inputs"], "labels": x["labels"]}, "all.safetensors")
    options = [
        "--steps",
        "5",
        "--batch-size",
        "16",
        "--n-heldout-rows",
        "12",
        "--rank",
        "1",
        "--n-subnetworks",
        "4",
    ]
    model = "small_model_of_commands:model"
    command("decompose", model, "--data", "all.safetensors", "--out", "one", *options)
    command("evaluate", "one", *QUICK)
    card = Scorecard.load("one/scorecard")
    # A tenth of 120 was set aside.
    assert (card.n_rows, card.n_fit) == (12, 48)
    assert "own code" in str(card["separation"])


def test_code_that_a_run_names_is_not_called_unasked(folder, capsys):
    from subscape.cli.main import main

    assert main(["evaluate", "net", *LEAST]) == 2
    assert "--trust" in capsys.readouterr().err
    # Nor what it was trained on, where other data are scored.
    toml = (folder / "net/run.toml").read_text()
    (folder / "net/run.toml").write_text(toml.replace('"train.safetensors"', '"evil:data"'))
    model = ["--model", "small_model_of_commands:model"]
    assert main(["evaluate", "net", *model, *LEAST]) == 2
    assert "fit: expected code that you name yourself; got 'evil:data'" in capsys.readouterr().err
    assert main(["evaluate", "net", *model, "--fit", "other.safetensors", *LEAST]) == 0


def test_a_run_of_another_model_is_refused(refused):
    assert "target" in refused("evaluate", "net", "--against", "stories", *LEAST)
