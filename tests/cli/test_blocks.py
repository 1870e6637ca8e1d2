"""`subscape decompose --blocks`: a folder of runs, each like that of a block alone."""

import json

import pytest
import torch

from subscape.cli.main import main
from subscape.subnetworks.decomposition import Decomposition
from subscape.training import together

pytestmark = pytest.mark.usefixtures("unchecked")

MODEL = "small_model_of_commands:model"
SETTINGS = "--steps 20 --batch-size 16 --n-heldout-rows 20 --rank 1 --n-subnetworks 4"
EVERY = "--checkpoint-every 5 --log-every 5"


def blocks(*more, names=("0", "2"), out="run") -> int:
    fixed = [*SETTINGS.split(), *EVERY.split(), "--out", out, "--blocks", *names]
    return main(["decompose", MODEL, "--data", "train.safetensors", *fixed, *more])


def weights(folder) -> torch.Tensor:
    return Decomposition.from_pretrained(folder / "final").decoder.weights


def test_every_block_has_a_run_of_its_own(folder, capsys):
    assert blocks() == 0
    said = capsys.readouterr().out
    assert "block" in said
    assert "subscape measure run/blocks/0 --trust" in said
    alone = ["decompose", MODEL, "--data", "train.safetensors", *SETTINGS.split()]
    for name in ("0", "2"):
        assert main([*alone, "--parameters", name, "--out", f"alone{name}"]) == 0
        found = weights(folder / "run" / "blocks" / name)
        assert torch.allclose(found, weights(folder / f"alone{name}"), rtol=0, atol=1e-4)
    overview = json.loads((folder / "run" / "blocks.json").read_text())
    assert {name: one["parameters"] for name, one in overview.items()} == {"0": 30, "2": 21}
    capsys.readouterr()
    measure = "--n-rows 20 --n-references 2 --n-top 4 --n-others 8 --n-deltas 2 --batch-size 10"
    assert main(["measure", "run/blocks/2", "--trust", *measure.split()]) == 0
    # All of it once more, and one block of it.
    assert main(["decompose", "--config", "run/run.toml", "--trust", "--out", "again"]) == 0
    assert torch.equal(weights(folder / "again" / "blocks" / "2"), found)
    one = ["decompose", "--config", "run/blocks/2/run.toml", "--trust", "--out", "one"]
    assert main(one) == 0
    assert torch.allclose(weights(folder / "one"), found, rtol=0, atol=1e-4)


def test_a_stopped_run_goes_on_and_can_be_begun_anew(folder, monkeypatch, capsys):
    assert blocks(out="whole") == 0
    right = together.record

    def stop(trainer, batch, where):
        if trainer.step_number == 12:
            raise KeyboardInterrupt
        return right(trainer, batch, where)

    with monkeypatch.context() as patch:
        patch.setattr(together, "record", stop)
        assert blocks() == 130
    assert "give the same command again to resume" in capsys.readouterr().err
    first_steps = []

    def watch(trainer, batch, where):
        first_steps.append(trainer.step_number)
        return right(trainer, batch, where)

    monkeypatch.setattr(together, "record", watch)
    assert blocks() == 0
    assert first_steps[0] == 11
    expected = weights(folder / "whole" / "blocks" / "2")
    assert torch.equal(weights(folder / "run" / "blocks" / "2"), expected)
    first_steps.clear()
    assert blocks() == 0  # done: nothing is trained
    assert first_steps == []
    assert blocks("--overwrite") == 0
    assert first_steps[0] == 1
    assert sorted(path.name for path in (folder / "run" / "blocks" / "2").iterdir()) == [
        "checkpoint.safetensors",
        "final",
        "metrics.jsonl",
        "run.toml",
    ]
    # Another block beside those that are done.
    first_steps.clear()
    assert blocks(names=("2",), out="some") == 0
    first_steps.clear()
    assert blocks(names=("0", "2"), out="some") == 0
    assert first_steps == list(range(1, 21))
    assert torch.equal(weights(folder / "some" / "blocks" / "2"), expected)


def test_what_does_not_go_together_is_refused(folder, capsys):
    assert blocks("--parameters", "0") == 2
    assert "expected blocks or parameters" in capsys.readouterr().err
    assert blocks(names=("nothing",)) == 2
    assert "'nothing', which matches none" in capsys.readouterr().err
    assert blocks() == 0
    alone = ["decompose", MODEL, "--data", "train.safetensors", *SETTINGS.split(), "--out", "run"]
    assert main(alone) == 2
    assert "run, which holds a run of many blocks" in capsys.readouterr().err
    assert main(["measure", "run", "--trust"]) == 2
    assert "expected the folder of one block; got run, which holds 2" in capsys.readouterr().err
    assert main([*alone[:-1], "alone"]) == 0
    assert blocks(out="alone") == 2
    assert "alone, which holds a run of one block" in capsys.readouterr().err
    (folder / "other" / "blocks" / "2").mkdir(parents=True)
    (folder / "other" / "blocks" / "2" / "mine.txt").write_text("mine")
    assert blocks(out="other") == 2
    assert (folder / "other" / "blocks" / "2" / "mine.txt").read_text() == "mine"


def test_json(folder, capsys):
    assert blocks("--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["blocks"].keys() == {"0", "2"}
    assert 0 < said["blocks"]["2"]["fvu"] <= 1.5
