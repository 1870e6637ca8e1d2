"""`subscape check` from the outside: what it prints, and its exit status."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from subscape.cli.main import main
from subscape.gradients import plan as plan_module
from subscape.gradients.one_pass import OnePass
from subscape.gradients.row_gradients import FactoredRowGradients
from subscape.gradients.tensor_gradients import DenseGradient

MODELS = """
import torch
from torch import nn

def model():
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=generator)
    return net

def tokens():
    return nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7))

def ids():
    return torch.randint(0, 7, (20, 5), generator=torch.Generator().manual_seed(1))
"""
MODEL = ["check", "models_of_check_test:model", "--data", "x.safetensors"]
TOKENS = ["check", "models_of_check_test:tokens", "--data", "models_of_check_test:ids"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module that makes models, and a file of inputs; the working folder."""
    (tmp_path / "models_of_check_test.py").write_text(MODELS)
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(1))
    save_file({"inputs": x}, tmp_path / "x.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def wrong_biases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients of vectors come out twice as large, and get past the trial of engines."""
    loose = dict.fromkeys(plan_module.TOLERANCE, 1e9)
    monkeypatch.setattr(plan_module, "TOLERANCE", loose)
    original = OnePass.gradients

    def gradients(self: OnePass, e: torch.Tensor) -> FactoredRowGradients:
        made = original(self, e).tensors
        return FactoredRowGradients({
            name: DenseGradient(2 * g.dense()) if g.dense().dim() == 2 else g
            for name, g in made.items()
        })

    monkeypatch.setattr(OnePass, "gradients", gradients)


def test_all_right(folder: Path, capsys: pytest.CaptureFixture[str]):
    before = sorted(path.name for path in folder.iterdir())
    assert main(MODEL) == 0
    head, *tensors, verdict = capsys.readouterr().out.splitlines()[:6]
    assert head.split() == ["tensor", "engine", "loop", "alone"]
    names = ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert [line.split()[:2] for line in tensors] == [[name, "rule"] for name in names]
    assert verdict == "8 rows, largest relative error of a row; right (tolerance 1e-03)"
    # Nothing is left behind.
    assert sorted(p.name for p in folder.iterdir() if p.name != "__pycache__") == before


def test_json(capsys: pytest.CaptureFixture[str]):
    arguments = ["--json", "--n-rows", "5", "--parameters", "0.*", "--engine", "vmap"]
    assert main(MODEL + arguments) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["ok"] is True
    assert printed["n_rows"] == 5
    assert printed["tolerance"] == 1e-3
    assert [(t["name"], t["engine"]) for t in printed["tensors"]] == [
        ("0.weight", "vmap"),
        ("0.bias", "vmap"),
    ]
    assert all(0 <= error < 1e-4 for t in printed["tensors"] for error in t["errors"].values())
    assert len(printed["notes"]) == 2


@pytest.mark.parametrize("rows", ["sampled-token", "token"])
def test_token_rows(rows: str, capsys: pytest.CaptureFixture[str]):
    assert main([*TOKENS, "--rows", rows, "--divergence", "kl", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["ok"] is True
    assert [t["name"] for t in printed["tensors"]] == ["0.weight", "1.weight", "1.bias"]


@pytest.mark.usefixtures("wrong_biases")
def test_a_wrong_gradient_gives_status_1(capsys: pytest.CaptureFixture[str]):
    assert main(MODEL) == 1
    _, *tensors, verdict = capsys.readouterr().out.splitlines()[:6]
    assert [line.count("!") for line in tensors] == [0, 2, 0, 2]
    assert "WRONG where marked with !" in verdict


@pytest.mark.usefixtures("wrong_biases")
def test_a_wrong_gradient_in_json(capsys: pytest.CaptureFixture[str]):
    assert main([*MODEL, "--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed["ok"] is False
    errors = {t["name"]: t["errors"]["loop"] for t in printed["tensors"]}
    assert errors["0.bias"] == pytest.approx(1.0)
    assert errors["0.weight"] < 1e-4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("check models_of_check_test:model --data y.npz", ["data", "'y.npz'"]),
        ("check no.such:thing --data x.safetensors", ["model", "no.such:thing"]),
        (
            "check models_of_check_test:model --data x.safetensors --parameters 0.wieght",
            ["parameters", "'0.wieght'", "0.weight"],
        ),
    ],
)
def test_a_wrong_argument_gets_one_line_and_status_2(
    arguments: str, words: list[str], capsys: pytest.CaptureFixture[str]
):
    assert main(arguments.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    error = captured.err.strip()
    assert error.startswith("subscape: ")
    assert len(error.splitlines()) == 1
    for word in words:
        assert word in error
