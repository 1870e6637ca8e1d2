"""Commands replace what an earlier one of their kind wrote, when asked, and never anything else."""

import json
import shutil
from pathlib import Path
from threading import Thread

import pytest
import torch
from safetensors.torch import save_file

from subscape._lock import locked
from subscape.cli.main import main
from subscape.subnetworks.decomposition import Decomposition
from subscape.training import run as training_run

MODEL = "small_model_of_commands:model"


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and "__pycache__" not in p.parts
    }


# Pictures and pages


@pytest.mark.parametrize("there", ["s.png", "s.json"])
@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_a_sweep_keeps_what_is_not_its_own(folder, refused, there, overwrite):
    (folder / there).write_text('{"delta": [1]}')
    before = files(folder)
    assert f"out: expected a new file; got {there}" in refused(
        "sweep", "net", "--out", "s.png", *overwrite
    )
    assert files(folder) == before


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_a_picture_beside_the_config_of_a_run(folder, refused, overwrite):
    before = files(folder)
    assert "net/final/config.json" in refused(
        "sweep", "net", "--out", "net/final/config.png", *overwrite
    )
    assert files(folder) == before


def test_a_sweep_is_refused_before_the_model_is_loaded(folder, refused):
    (folder / "s.json").write_text("{}")
    error = refused("sweep", "net", "--out", "s.png", "--model", "no.such:model")
    assert "s.json" in error


def test_an_earlier_sweep_is_replaced_when_asked(folder, command, refused):
    command("sweep", "net", "--out", "s.png", "--json")
    first = files(folder)
    assert "--overwrite" in refused("sweep", "net", "--out", "s.png")
    assert files(folder) == first
    command("sweep", "net", "--subnetwork", "1", "--out", "s.png", "--overwrite", "--json")
    second = files(folder)
    assert {name for name in first if first[name] != second[name]} == {"s.png", "s.json"}
    # The picture of another name is none of the sweep whose numbers lie beside it.
    (folder / "s.svg").write_text("mine")
    assert "s.svg" in refused("sweep", "net", "--out", "s.svg", "--overwrite")


def test_a_report_replaces_no_other_file(folder, refused):
    for name in ("net/run.toml", "net/final/config.json", "x.safetensors"):
        before = files(folder)
        assert "no earlier result" in refused("report", "net", "-o", name, "--overwrite")
        assert files(folder) == before


def test_results_replace_only_results(tmp_path, capsys):
    (tmp_path / "results.json").write_text('{"name": "mine"}')
    assert main(["reproduce", "tms", "--out", str(tmp_path), "--overwrite"]) == 2
    assert "no earlier result" in capsys.readouterr().err
    assert files(tmp_path) == {"results.json": b'{"name": "mine"}'}


# Edits


@pytest.mark.parametrize("way", ["--save", "--lora"])
@pytest.mark.parametrize("target", ["stories", "stories/final", "stories/measures", "llama"])
def test_an_edit_replaces_no_run_and_no_model(folder, refused, way, target):
    before = files(folder)
    error = refused("edit", "stories", "--set", "0=1", way, target, "--overwrite")
    assert f"{way[2:]}: expected a folder that is new or empty; got {target}" in error
    assert files(folder) == before


def test_an_edited_model_is_replaced_by_another(folder, command, refused):
    command("edit", "stories", "--set", "1=2", "--save", "new")
    first = files(folder / "new")
    record = json.loads(first["edit.json"])
    assert record["set"] == ["1=2"]
    assert {*record["files"], "edit.json"} == first.keys()
    assert "--overwrite" in refused("edit", "stories", "--set", "1=3", "--save", "new")
    command("edit", "stories", "--set", "1=3", "--save", "new", "--overwrite")
    second = files(folder / "new")
    assert second["model.safetensors"] != first["model.safetensors"]
    (folder / "new" / "notes.txt").write_text("mine")
    more = ("--save", "new", "--overwrite")
    assert "no earlier result" in refused("edit", "stories", "--set", "1=4", *more)
    assert files(folder / "new") == second | {"notes.txt": b"mine"}


# Runs


def decompose(*more: str) -> int:
    options = "--steps 20 --batch-size 16 --n-heldout-rows 20 --rank 1 --n-subnetworks 4"
    data = ["--data", "train.safetensors", "--checkpoint-every", "10", "--out", "net"]
    return main(["decompose", MODEL, *data, *options.split(), "--overwrite", *more])


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ("--batch-size 999", "batch_size"),
        ("--learning-rate 1e30 --log-every 1", "learning_rate"),
        ("--data nan.safetensors", ""),
        ("--rank 9", "rank"),
        ("--data none.npy", "data"),
    ],
)
def test_a_run_that_cannot_start_leaves_the_old_one(folder, capsys, arguments, word):
    save_file({"inputs": torch.full((120, 4), torch.nan)}, "nan.safetensors")
    before = files(folder)
    assert decompose(*arguments.split()) == 2
    assert word in capsys.readouterr().err
    assert files(folder) == before


def stopping(step: int, error: BaseException):
    """A training step that raises."""
    right = training_run.Trainer.step

    def stop(self):
        if self.step_number == step:
            raise error
        return right(self)

    return stop


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("no"), RuntimeError("bug")])
def test_one_that_stops_before_its_first_checkpoint_leaves_the_old_one(folder, monkeypatch, error):
    before = files(folder)
    monkeypatch.setattr(training_run.Trainer, "step", stopping(5, error))
    assert decompose() in (2, 130)
    assert files(folder) == before


def test_a_run_in_use_is_not_moved_aside(folder, capsys):
    before = files(folder)
    status = []
    with locked("net"):
        other = Thread(target=lambda: status.append(decompose()))
        other.start()
        other.join()
        assert files(folder) == before | {"net/.lock": b""}
    assert status == [2]
    assert "which another process has in use" in capsys.readouterr().err


def test_one_that_stops_later_keeps_both_until_it_is_done(folder, monkeypatch, capsys):
    before = files(folder / "net")
    with monkeypatch.context() as patch:
        patch.setattr(training_run.Trainer, "step", stopping(15, KeyboardInterrupt()))
        assert decompose() == 130
    assert "the earlier run is kept in net/replaced-1" in capsys.readouterr().err
    kept = files(folder / "net")
    for name in ("run.toml", "checkpoint.safetensors", "final/config.json"):
        assert kept[f"replaced-1/{name}"] == before[name]
    settings = kept["run.toml"]
    arguments = ["decompose", "--config", "net/run.toml", "--trust"]
    assert main(arguments) == 0
    after = files(folder / "net")
    assert not [name for name in after if name.startswith("replaced")]
    assert after["run.toml"] == settings
    assert len((folder / "net" / "metrics.jsonl").read_text().splitlines()) == 1


def test_a_run_overwritten_leaves_what_others_put_there(folder):
    (folder / "net" / "notes.txt").write_text("mine")
    before = files(folder / "net")
    assert decompose() == 0
    after = files(folder / "net")
    assert before.keys() == after.keys()
    changed = {name for name in before if before[name] != after[name]}
    assert changed >= {"run.toml", "checkpoint.safetensors", "final/config.json"}
    assert not [name for name in changed if name.startswith(("measures", "notes"))]


def spoil(folder: Path, kind: str) -> None:
    net = folder / "net"
    match kind:
        case "another final":
            shutil.rmtree(net / "final")
            shutil.copytree(folder / "llama", net / "final")
        case "a file in final":
            (net / "final" / "notes.txt").write_text("mine")
        case "final a file":
            shutil.rmtree(net / "final")
            (net / "final").write_text("mine")
        case "no run":
            shutil.rmtree(net)
            net.mkdir()
            save_file({"weight": torch.ones(3)}, net / "checkpoint.safetensors")
        case "another run.toml":
            (net / "checkpoint.safetensors").unlink()
            (net / "run.toml").write_text("[tool]\nmodel = 3\n")


KINDS = ["another final", "a file in final", "final a file", "no run", "another run.toml"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_runs_is_not_overwritten(folder, capsys, kind):
    spoil(folder, kind)
    before = files(folder)
    assert decompose() == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "no earlier result, which alone is replaced" in line
    assert files(folder) == before


def test_a_resumed_run_replaces_no_other_final(folder, capsys):
    (folder / "net" / "final" / "notes.txt").write_text("mine")
    before = files(folder)
    assert main(["decompose", "--config", "net/run.toml", "--trust"]) == 2
    assert "net/final" in capsys.readouterr().err
    assert files(folder) == before


def test_a_decomposition_replaces_only_a_decomposition(folder):
    found = Decomposition.from_pretrained("net/final")
    found.save_pretrained("net/final", overwrite=True)
    before = files(folder)
    for place in ("net", "llama", "net/measures"):
        with pytest.raises(FileExistsError, match="no earlier result"):
            found.save_pretrained(place, overwrite=True)
    assert files(folder) == before
