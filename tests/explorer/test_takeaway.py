"""Labels and exports: what stays in the run folder."""

import json

import pytest
import torch

from subscape.report.build import page_data
from subscape.report.labels import Label, Labels, read_labels
from tests.explorer.conftest import WORDS

MOVES = {"deltas": {"0": 1.5, "2": -0.5}}


def test_names_are_kept_for_other_tabs_and_for_the_report(words, client_of, tmp_path):
    one, other = client_of(words), client_of(words)
    one.post("/api/label", json={"subnetwork": 1, "label": {"name": "cats", "note": "seen thrice"}})
    answer = other.post("/api/label", json={"subnetwork": 3, "label": {"name": "dogs"}})
    assert answer.json()["labels"]["1"] == {"name": "cats", "note": "seen thrice"}
    labels = read_labels(tmp_path, words.measures.decomposition)
    assert labels.labels == {1: Label("cats", "seen thrice"), 3: Label("dogs")}
    data = page_data(words.decomposition, words.measures, title="x", labels=labels)
    assert data["labels"][3].name == "dogs"
    one.post("/api/label", json={"subnetwork": 1, "label": {}})
    assert list(read_labels(tmp_path, words.measures.decomposition).labels) == [3]


def test_labels_of_another_decomposition_and_damaged_ones_are_refused(tmp_path):
    Labels("one").with_label(0, Label("x")).save(tmp_path)
    with pytest.raises(ValueError, match="of another one"):
        read_labels(tmp_path, "two")
    (tmp_path / "labels.json").write_text('{"labels": 3}')
    with pytest.raises(ValueError, match=r"labels\.json: expected labels"):
        read_labels(tmp_path, "one")


def test_an_edit_is_kept_as_a_lora_and_as_a_model(words, client_of, tmp_path):
    transformers = pytest.importorskip("transformers")
    client = client_of(words)
    for number in (1, 2):  # nothing that is there is replaced
        answer = client.post("/api/keep", json={"kind": "lora", "moves": MOVES})
        assert answer.json()["path"] == str(tmp_path / "exports" / f"lora-{number}")
    config = json.loads((tmp_path / "exports/lora-1/adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    path = client.post("/api/keep", json={"kind": "model", "moves": MOVES}).json()["path"]
    loaded = transformers.AutoModelForCausalLM.from_pretrained(path)
    edited = words.decomposition.edited(words.model, {0: 1.5, 2: -0.5})
    for new, old in zip(loaded.parameters(), edited.parameters(), strict=True):
        assert torch.equal(new, old)
    assert transformers.AutoTokenizer.from_pretrained(path).decode([1]) == WORDS[1]


def test_what_cannot_be_kept_is_refused(words, pictures, client_of):
    without = client_of(words, folder=None)
    for what, body in (
        ("label", {"subnetwork": 0, "label": {"name": "x"}}),
        ("keep", {"kind": "lora", "moves": MOVES}),
    ):
        assert "folder" in without.post(f"/api/{what}", json=body).json()["error"]
    answer = client_of(pictures).post("/api/keep", json={"kind": "model", "moves": MOVES})
    assert "a Hugging Face model" in answer.json()["error"]
