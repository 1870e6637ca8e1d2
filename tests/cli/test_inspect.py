"""`subscape inspect` from the outside."""

import json

import pytest

from subscape.cli.main import main

MODULE = """
from torch import nn

def model():
    return nn.Sequential(nn.Sequential(nn.Linear(4, 6), nn.Tanh()), nn.Linear(6, 3))

def bare():
    return nn.Linear(2, 2)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "models_of_inspect_test.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)


def lines(capsys, *arguments):
    assert main(["inspect", "models_of_inspect_test:model", *arguments, "--json"]) == 0
    return {line.pop("name"): line for line in json.loads(capsys.readouterr().out)}


def test_numbers_by_hand(capsys):
    found = lines(capsys, "--rank", "1", "--n-subnetworks", "1024")
    assert list(found) == ["0", "0.0", "1"]
    # 6 × 4 of rank 1: a core of one number, factors of 6 and 4; the bias is whole.
    assert (found["0"]["parameters"], found["0"]["of_a_direction"]) == (30, 1 + 6 + 4 + 6)
    assert found["0"]["memory_gib"] == 8 * 1024 * 17 * 4 / 2**30
    assert not found["0"]["picked"]


def test_depth_and_text(capsys):
    assert list(lines(capsys, "--depth", "1")) == ["0", "1"]
    assert main(["inspect", "models_of_inspect_test:model"]) == 0
    text = capsys.readouterr().out
    assert "Sequential, 51 parameters" in text
    assert "subscape decompose models_of_inspect_test:model --parameters 0 --data DATA" in text


def test_refusals(capsys):
    for arguments, words in (
        (["models_of_inspect_test:bare"], "model: expected modules with parameters"),
        (["models_of_inspect_test:model", "--depth", "0"], "depth: expected at least 1"),
        (["models_of_inspect_test:model", "--rank", "-1"], "rank: expected"),
    ):
        assert main(["inspect", *arguments]) == 2
        assert words in capsys.readouterr().err


def test_what_decompose_takes_by_itself_is_marked(data_dir, capsys):
    pytest.importorskip("transformers")
    assert main(["inspect", str(data_dir / "stories260k"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [line["name"] for line in found if line["picked"]] == ["model.layers.2.mlp"]
    embedding = next(line for line in found if line["name"] == "lm_head")
    assert embedding["parameters"] == 512 * 64
