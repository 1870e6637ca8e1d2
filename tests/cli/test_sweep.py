import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from subscape.measures import Measures
from subscape.subnetworks.decomposition import Decomposition


def mean_changes(k: int, delta: float, samples) -> float:
    """The mean squared change of outputs, by editing the model and calling it."""
    from small_model_of_commands import model

    x = load_file("x.safetensors")["inputs"][samples]
    net, found = model(), Decomposition.from_pretrained("net/final")
    with torch.no_grad():
        before = net(x)
        with found.edit(net, {k: delta}) as moved:
            return (moved(x) - before).square().mean().item()


def test_the_numbers_are_those_of_the_edited_model(folder, command):
    found = json.loads(
        command("sweep", "net", "--subnetwork", "1", "--deltas", "-0.5", "0", "2", "--json")
    )
    assert found["subnetwork"] == 1
    assert found["delta"] == [-0.5, 0, 2]
    samples = [row.sample for row in Measures.load("net/measures")[1].top_samples]
    expected = [mean_changes(1, d, samples) for d in found["delta"]]
    assert found["relevant"] == pytest.approx(expected, rel=1e-4, abs=1e-9)
    assert all(v >= 0 for c in ("drawn_at_random", "random_direction") for v in found[c])
    assert found["unit"] == "squared output"
    text = command("sweep", "net", "--subnetwork", "1", "--deltas", "-0.5", "0", "2")
    text = text.partition("\n\n")[0]
    assert [line.split()[0] for line in text.splitlines()[2:]] == ["-0.5", "0", "2"]


def test_restricted_to_some_tensors(command):
    arguments = ["sweep", "net", "--deltas", "1", "--json", "--tensors"]
    whole, bias = (json.loads(command(*arguments, t))["relevant"] for t in ("*", "2.bias"))
    share = Decomposition.from_pretrained("net/final")[0]["2.bias"]
    assert bias == pytest.approx([share.square().mean().item()], rel=1e-4)
    assert whole != bias


def test_a_picture_and_its_numbers(folder, command):
    command("sweep", "net", "--out", "s.png", "--json")
    assert (folder / "s.png").read_bytes().startswith(b"\x89PNG")
    numbers = json.loads((folder / "s.json").read_text())
    printed = json.loads(command("sweep", "net", "--json"))
    assert numbers == {"format": "subscape-sweep/1", "picture": "s.png", **printed}


def test_two_at_a_time(folder, command):
    arguments = ["sweep", "net", "--subnetwork", "0", "--beside", "2", "--deltas", "0", "1"]
    found = json.loads(command(*arguments, "--json", "--out", "g.svg"))
    assert found["change"][0][0] == 0
    measures = Measures.load("net/measures")
    samples = [row.sample for k in (0, 2) for row in measures[k].top_samples]
    assert found["change"][1][0] == pytest.approx(mean_changes(0, 1.0, samples), rel=1e-4)
    assert found["change"][0][1] == pytest.approx(mean_changes(2, 1.0, samples), rel=1e-4)
    assert "<svg" in (folder / "g.svg").read_text()
    assert "down: δ of 0, across: δ of 2" in command(*arguments)


def test_outputs_that_are_not_finite_are_said_to_be(command):
    found = json.loads(command("sweep", "net", "--deltas", "0", "1e38", "--json"))
    assert found["relevant"][0] == 0
    assert found["relevant"][1] is None
    text = command("sweep", "net", "--deltas", "0", "1e38")
    assert "not finite" in text.partition("\n\n")[0].splitlines()[-1]
    grid = json.loads(command("sweep", "net", "--beside", "1", "--deltas", "0", "1e38", "--json"))
    assert grid["change"][1][1] is None


def test_a_language_model(command):
    found = json.loads(command("sweep", "stories", "--deltas", "-1", "1", "--json"))
    assert found["unit"] == "nats"
    assert all(math.isfinite(v) and v > 0 for v in found["relevant"])


def test_windows_are_those_that_were_measured(folder, command):
    """Measured with windows of 3, although the run has 6."""
    more = "--n-rows 30 --n-references 2 --n-top 3 --n-others 6 --n-deltas 1 --batch-size 60"
    command("measure", "stories", "--window", "3", "--out", "m", "--json", *more.split())
    command("sweep", "stories", "--measures", "m", "--json")


def test_other_data_than_those_measured(folder, refused):
    error = refused("sweep", "net", "--data", "other.safetensors")
    assert "data: expected the data that were measured" in error
    save_file(
        {"inputs": load_file("x.safetensors")["inputs"][:5].clone()}, folder / "few.safetensors"
    )
    assert "the data that were measured" in refused("sweep", "net", "--data", "few.safetensors")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("sweep net --subnetwork 4", "0 to 3; got 4"),
        ("sweep net --subnetwork 0 --beside 9", "0 to 3; got 9"),
        ("sweep net --deltas nan", "deltas: expected finite numbers"),
        ("sweep net --tensors 0.wieght", "'0.wieght'"),
        ("sweep bare", "Measure first"),
        ("sweep net --out nowhere/s.png --json", "nowhere"),
        ("sweep net --out s.xyz --json", "xyz"),
        ("sweep net --out s --json", "out: expected a picture (.png, .svg, .pdf)"),
        ("sweep net --beside 0", "beside: expected another subnetwork; got 0 twice"),
        ("sweep net --model small_model_of_commands:other", "same shapes, other values"),
    ],
)
def test_a_wrong_argument_gets_one_line(refused, arguments, words):
    assert words in refused(*arguments.split())


def test_measures_in_a_divergence_of_ones_own(folder, refused):
    path = folder / "net" / "measures" / "measures.json"
    record = json.loads(path.read_text())
    record["divergence"] = "cosine_distance"
    path.write_text(json.dumps(record))
    error = refused("sweep", "net", "--json")
    assert "a function of your own, cosine_distance" in error
