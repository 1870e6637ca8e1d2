"""`subscape encode` from the outside."""

import json

import pytest
import torch

from subscape._io import read_tensors
from subscape.cli.main import main


@pytest.fixture
def encode(folder, capsys):
    def run(*arguments):
        assert main(["encode", *arguments, "--trust"]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return run


def test_the_codes_of_data_are_those_of_the_library(folder, encode):
    line = json.loads(encode("net", "--data", "x.safetensors", "--out", "c.safetensors", "--json"))
    codes = read_tensors(folder / "c.safetensors")["codes"]
    assert codes.shape == (line["rows"], line["subnetworks"])
    assert line["l0"] == pytest.approx(float((codes != 0).sum(1).float().mean()))
    from subscape.cli.run_folder import open_run

    opened = open_run(folder / "net", trust=True)
    inputs = read_tensors(folder / "x.safetensors")["inputs"]
    torch.testing.assert_close(codes, opened.decomposition.encode(opened.target(), inputs))


def test_every_token_with_what_it_uses(encode):
    lines = json.loads(encode("stories", "--text", "once upon a time there", "--json"))
    assert [line["token"].strip() for line in lines] == ["once", "upon", "a", "time", "there"]
    sizes = [abs(code) for line in lines for code in line["codes"].values()]
    assert all(sizes)
    for line in lines:
        own = [abs(code) for code in line["codes"].values()]
        assert own == sorted(own, reverse=True)
    text = encode("stories", "--text", "once upon")
    assert "once" in text and "subscape top stories --subnetwork" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["net"], "text: expected either --text or --data; got neither"),
        (["net", "--data", "x.safetensors"], "out: expected a file for the codes of data"),
        (["net", "--text", "once"], "text: expected a model with a tokenizer"),
        (["stories", "--text", ""], "text: expected a text of at least one token"),
        (["net", "--data", "x.safetensors", "--out", "x.safetensors"], "x.safetensors"),
    ],
)
def test_refusals(folder, capsys, arguments, words):
    assert main(["encode", *arguments, "--trust"]) == 2
    assert words in capsys.readouterr().err


def test_only_codes_are_replaced(folder, encode, capsys):
    line = ["net", "--data", "x.safetensors", "--out"]
    encode(*line, "c.safetensors")
    assert main(["encode", *line, "c.safetensors", "--trust"]) == 2
    encode(*line, "c.safetensors", "--overwrite")
    assert main(["encode", *line, "x.safetensors", "--trust", "--overwrite"]) == 2
