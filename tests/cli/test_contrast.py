import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from subscape import Decomposition


def halves(first: str = "a.safetensors", second: str = "b.safetensors") -> None:
    inputs = load_file("x.safetensors")["inputs"].unique(dim=0)
    order = inputs[:, 0].argsort()
    n = len(order) // 2
    save_file({"inputs": inputs[order[:n]].contiguous()}, first)
    save_file({"inputs": inputs[order[n:]].contiguous()}, second)


def test_subnetworks_that_tell_sets_apart(folder, command):
    halves()
    text = command("contrast", "net", "--a", "a.safetensors", "--b", "b.safetensors")
    assert "subnetworks tell" in text
    found = json.loads(
        command("contrast", "net", "--a", "a.safetensors", "--b", "b.safetensors", "--json")
    )
    assert len(found["differences"]) == 4
    n = sum(d["q"] <= 0.05 for d in found["differences"])
    assert text.startswith(f"{n} of 4 subnetworks")
    assert n > 0
    assert f"subscape edit net --trust --set {found['differences'][0]['index']}=" in text


def test_bad_sets_are_refused(folder, command, refused):
    halves()
    error = refused("contrast", "net", "--a", "a.safetensors", "--b", "a.safetensors")
    assert "b: expected samples that are not in a" in error
    inputs = load_file("a.safetensors")["inputs"]
    save_file({"inputs": inputs[:3].contiguous()}, "few.safetensors")
    error = refused("contrast", "net", "--a", "few.safetensors", "--b", "b.safetensors")
    assert "a: expected at least 8 different samples; got 3 of 3" in error
    assert not Path("net/contrast").exists()


def test_another_vocabulary_is_refused(folder, refused):
    for name, start in (("a.npz", 0), ("b.npz", 40)):
        import numpy

        numpy.savez(name, input_ids=torch.arange(start, start + 40).view(10, 4).numpy())
    error = refused("contrast", "stories", "--a", "a.npz", "--b", "b.npz")
    assert "data: expected token ids of the model's vocabulary" in error


def pairs(path: str, *lines: tuple[str, str]) -> None:
    Path(path).write_text("".join(json.dumps({"a": a, "b": b}) + "\n" for a, b in lines))


WORDS = ["once upon a time", "there was a cat", "there was a dog", "a cat was there"]
FEW = ["--steps", "4", "--n-subnetworks", "3", "--rank", "1", "--batch-size", "12"]


def test_a_contrastive_decomposition_then_its_measures(folder, command):
    pairs("pairs.jsonl", *((a, b) for a in WORDS for b in WORDS if a < b))
    options = ["--data", "pairs.jsonl", "--window", "4", "--out", "pairs", *FEW]
    text = command("decompose", "llama", "--parameters", "model.layers.0.mlp", *options)
    assert "each sample's partner" in text
    assert "--background FILE takes ordinary data" in text
    table = Path("pairs/run.toml").read_text()
    assert 'data = "pairs.jsonl"' in table
    assert "reference" not in table
    again = command("decompose", "llama", "--parameters", "model.layers.0.mlp", *options)
    assert "FVU" in again
    command(
        "measure", "pairs", "--n-rows", "12", "--n-top", "2", "--n-others", "4", "--n-deltas", "2"
    )


def test_two_sets_as_partners(folder, command):
    halves()
    options = ["--data", "a.safetensors", "--contrast", "b.safetensors", "--out", "both", *FEW]
    command("decompose", "small_model_of_commands:model", *options)
    assert 'contrast = "b.safetensors"' in Path("both/run.toml").read_text()


def test_the_metric_of_pairs_from_ordinary_data(folder, command, refused):
    halves()
    options = ["--data", "a.safetensors", "--contrast", "b.safetensors", *FEW]
    options = ["decompose", "small_model_of_commands:model", *options]
    text = command(*options, "--background", "train.safetensors", "--out", "both")
    assert "kronecker, of 120 samples" in text
    assert "takes ordinary data" not in text
    command(*options, "--out", "own")
    assert 'background = "train.safetensors"' in Path("both/run.toml").read_text()
    one, other = (Decomposition.from_pretrained(f"{f}/final").geometry for f in ("both", "own"))
    assert one.metric.state().keys() == other.metric.state().keys()
    assert one.typical_row != other.typical_row
    text = command(*options, "--background", "train.safetensors", "--blocks", "2", "--out", "many")
    assert "kronecker, of 120 samples" in text
    assert "takes ordinary data" not in text
    # What a file names may be code.
    text = Path("both/run.toml").read_text().replace("train.safetensors", "evil:data")
    Path("other.toml").write_text(text.replace("small_model_of_commands:model", "llama"))
    error = refused("decompose", "--config", "other.toml", "--out", "new")
    assert "evil:data" in error
    assert "--trust" in error


def test_what_is_no_pair_is_refused(folder, refused):
    options = ["--parameters", "model.layers.0.mlp", "--out", "new"]
    error = refused("decompose", "llama", "--data", "none.jsonl", *options)
    assert "data: expected a file that exists; got 'none.jsonl'. Check the path." in error
    Path("no.jsonl").write_text('{"a": "once"}\n')
    error = refused("decompose", "llama", "--data", "no.jsonl", *options)
    assert 'no.jsonl line 1: expected {"a": text, "b": text}' in error
    pairs("short.jsonl", ("once upon a time", "a cat"))
    error = refused("decompose", "llama", "--data", "short.jsonl", "--window", "4", *options)
    assert (
        "short.jsonl line 1: expected texts of 4 tokens; got 2. Give --window 2 or less." in error
    )
    for flag, value in (("reference", "mean"), ("heldout", "short.jsonl")):
        chosen = ["--data", "short.jsonl", "--window", "2", f"--{flag}", value]
        error = refused("decompose", "llama", *chosen, *options)
        assert f"{flag}: expected to be left out" in error
    assert not Path("new").exists()
