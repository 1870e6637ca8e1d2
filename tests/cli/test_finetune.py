import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from subscape import Decomposition, Finetuned

FEW = ["--steps", "20", "--learning-rate", "0.1"]


def test_a_language_model_then_an_edit(folder, command):
    text = command("finetune", "stories", "--data", "stories.txt", *FEW, "--keep", "0.1")
    assert "held-out loss (next-token)" in text
    assert "of 4 subnetworks move" in text
    assert "subscape edit stories --coefficients stories/finetuned --prompt TEXT" in text
    final = Path("stories/finetuned/final")
    assert sum(path.stat().st_size for path in final.iterdir()) <= 10_000
    found = Decomposition.from_pretrained("stories/final")
    tuned = Finetuned.from_pretrained("stories/finetuned", found)
    assert tuned.deltas
    moves = ["--coefficients", "stories/finetuned", "--prompt", "a", "--json"]
    edited = json.loads(command("edit", "stories", *moves))
    assert {int(k): d for k, d in edited["deltas"].items()} == tuned.deltas
    changed = json.loads(command("edit", "stories", *moves, "--set", "1=0"))
    assert changed["deltas"] == edited["deltas"] | {"1": 0}
    command("edit", "stories", "--coefficients", "stories/finetuned/final", "--save", "new")
    record = json.loads(Path("new/edit.json").read_text())
    assert len(record["set"]) == len(tuned.deltas)


def test_labels_and_chosen_subnetworks(folder, command):
    options = ["--loss", "cross-entropy", "--subnetworks", "2", "0", "--out", "mine", "--json"]
    found = json.loads(command("finetune", "net", "--data", "x.safetensors", *options, *FEW))
    assert found["out"] == "mine"
    assert found["loss_after"] < found["loss_before"]
    assert [k for k, delta in enumerate(found["coefficients"]) if delta] == [0, 2]
    again = json.loads(command("finetune", "net", "--data", "x.safetensors", *options, *FEW))
    assert again == found


def test_a_loss_of_ones_own(folder, command):
    Path("losses_of_mine.py").write_text(
        "def first(outputs, batch):\n    return outputs[:, 0].square().mean()\n"
    )
    options = ["--loss", "losses_of_mine:first", "--heldout", "x.safetensors", "--json"]
    inputs = {"inputs": load_file("train.safetensors")["inputs"]}
    save_file(inputs, "only.safetensors")
    options += ["--others", "only.safetensors", "--keep", "0.5"]
    found = json.loads(command("finetune", "net", "--data", "only.safetensors", *options, *FEW))
    assert found["loss"] == "first"
    assert found["moved_others"] > 0


def test_another_run_needs_overwrite(folder, command, refused):
    options = ["--data", "x.safetensors", "--loss", "cross-entropy"]
    command("finetune", "net", *options, *FEW)
    error = refused("finetune", "net", *options, "--steps", "10")
    assert "steps: expected 20, as in the run found in net/finetuned" in error
    command("finetune", "net", *options, "--steps", "10", "--overwrite")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("net --data x.safetensors", ["loss: expected one of ['next-token'", "no causal language"]),
        ("net --data x.safetensors --loss nothing:there", ["loss", "can be imported from here"]),
        ("net --data x.safetensors --loss mse --subnetworks 4", ["one of the 4 of this run"]),
        ("net --data train.safetensors --loss mse", ["inputs without labels"]),
        ("stories --data large.safetensors", ["token ids of the model's vocabulary, 0 to 10"]),
        ("stories --data nowhere.txt", ["a file that exists"]),
    ],
)
def test_a_wrong_argument_gets_one_line(folder, refused, arguments, words):
    save_file({"input_ids": torch.arange(6).view(-1, 1).repeat(1, 4) + 6}, "large.safetensors")
    error = refused("finetune", *arguments.split())
    for word in words:
        assert word in error


def test_coefficients_of_something_else(folder, command, refused):
    command("finetune", "net", "--data", "x.safetensors", "--loss", "cross-entropy", *FEW)
    error = refused("edit", "stories", "--coefficients", "net/finetuned", "--prompt", "a")
    assert "coefficients: expected those of this decomposition" in error
    assert "a folder of coefficients" in refused(
        "edit", "stories", "--coefficients", "net/measures", "--prompt", "a"
    )
