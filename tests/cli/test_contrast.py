import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


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
