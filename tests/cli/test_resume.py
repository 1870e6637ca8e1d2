"""A run goes on wherever it was moved to, however it is named, and whatever a killed process left."""

import json
import os
import shutil
import tomllib
from uuid import uuid4

import numpy as np
import pytest
import torch

from subscape._io import write_text
from subscape.cli.main import main
from subscape.cli.picks import is_classifier, middle_mlp
from subscape.cli.toml import read
from subscape.subnetworks.decomposition import Decomposition
from subscape.training import run as training_run

pytestmark = pytest.mark.usefixtures("unchecked")

MODEL = "small_model_of_commands:model"
SETTINGS = "--steps 20 --batch-size 16 --n-heldout-rows 20 --rank 1 --n-subnetworks 4"


def decompose(*more, out="run", data="train.safetensors") -> int:
    fixed = ["--checkpoint-every", "5", "--log-every", "5", "--out", str(out)]
    return main(["decompose", MODEL, "--data", str(data), *SETTINGS.split(), *fixed, *more])


def weights(out) -> torch.Tensor:
    return Decomposition.from_pretrained(out / "final").decoder.weights


@pytest.fixture
def stopped(folder, monkeypatch, capsys):
    """A run that was stopped at step 12 of 20, and beside it, in `whole`, one that was not."""
    assert decompose(out="whole") == 0
    right = training_run.Trainer.step

    def stop(self):
        if self.step_number == 12:
            raise KeyboardInterrupt
        return right(self)

    with monkeypatch.context() as patch:
        patch.setattr(training_run.Trainer, "step", stop)
        assert decompose() == 130
    assert not (folder / "run" / "final").exists()
    capsys.readouterr()
    return folder


def steps_made(monkeypatch) -> list[int]:
    right, steps = training_run.Trainer.step, []

    def counting(self):
        steps.append(self.step_number)
        return right(self)

    monkeypatch.setattr(training_run.Trainer, "step", counting)
    return steps


@pytest.mark.parametrize(
    "spelled", ["renamed", "absolute", "dotted", "log", "checkpoint", "memory", "config", "moved"]
)
def test_a_stopped_run_goes_on(stopped, monkeypatch, spelled):
    steps = steps_made(monkeypatch)
    out = stopped / "run"
    match spelled:
        case "renamed":
            out = out.rename(stopped / "other")
            status = decompose(out=out)
        case "absolute":
            status = decompose(out=out, data=stopped / "train.safetensors")
        case "dotted":
            status = decompose(out="net/../run", data="net/../train.safetensors")
        case "log":
            status = decompose("--log-every", "1")
        case "checkpoint":
            status = decompose("--checkpoint-every", "3")
        case "memory":
            status = decompose("--memory-gib", "0.5")
        case "config":
            status = main(["decompose", "--config", "run/run.toml", "--trust"])
        case _:
            (stopped / "place").mkdir()
            out = out.rename(stopped / "place" / "moved")
            status = main(["decompose", "--config", str(out / "run.toml"), "--trust"])
    assert status == 0
    assert steps == list(range(10, 20))
    assert torch.equal(weights(out), weights(stopped / "whole"))
    assert not (stopped / "runs").exists()


def test_the_file_of_an_earlier_version_does_not_name_another_place(stopped):
    out = (stopped / "run").rename(stopped / "moved")
    (out / "run.toml").write_text('out = "run"\n' + (out / "run.toml").read_text())
    assert main(["decompose", "--config", "moved/run.toml", "--trust"]) == 0
    assert not (stopped / "run").exists()
    assert torch.equal(weights(out), weights(stopped / "whole"))


def test_a_file_that_is_no_runs_says_where_to(folder):
    table = (folder / "net" / "run.toml").read_text()
    (folder / "run.toml").write_text('out = "named"\n' + table)
    assert main(["decompose", "--config", "run.toml", "--trust"]) == 0
    assert (folder / "named" / "final").is_dir()
    assert not (folder / "final").exists()


@pytest.mark.parametrize(
    ("more", "key"),
    [("--seed 1", "seed"), ("--steps 30", "steps"), ("--reference uniform", "reference")],
)
def test_other_settings_are_refused_and_nothing_is_written(stopped, capsys, more, key):
    before = {p: p.read_bytes() for p in (stopped / "run").iterdir()}
    assert decompose(*more.split()) == 2
    error = capsys.readouterr().err
    assert f"subscape: {key}: expected " in error
    assert "as in the run found in run" in error
    assert "--overwrite" in error
    assert {p: p.read_bytes() for p in (stopped / "run").iterdir()} == before


def left_over(name: str) -> str:
    return f".{name}.{uuid4().hex}.tmp"


def test_killed_while_run_toml_is_written(folder, monkeypatch):
    """Nothing is there but the lock and a file under the name it has while it is written."""
    replace, names = os.replace, []

    def killed(self, target):
        if self.name.startswith(".run.toml") and not names:
            names.append(self.name)
            shutil.copytree("killed", "kept")
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", killed)
        assert decompose(out="killed") == 0
    assert {p.name for p in (folder / "kept").iterdir()} == {".lock", names[0]}
    assert decompose(out="kept") == 0
    assert {p.name for p in (folder / "kept").iterdir()} == {
        "run.toml",
        "metrics.jsonl",
        "checkpoint.safetensors",
        "final",
    }


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_left_over_files_go_and_hinder_nothing(stopped, overwrite):
    out = stopped / "run"
    (out / left_over("checkpoint.safetensors")).write_bytes(b"half")
    (out / left_over("final")).mkdir()
    (out / left_over("final") / "x").parent.mkdir()
    mine = ".notes.tmp"
    (out / mine).write_text("mine")
    assert decompose(*overwrite) == 0
    hidden = {p.name for p in out.iterdir() if p.name.startswith(".")}
    assert hidden == {mine}
    assert torch.equal(weights(out), weights(stopped / "whole"))


def test_killed_before_its_first_checkpoint(stopped):
    """Only settings and metrics are there; other settings may then begin anew."""
    for name in ("checkpoint.safetensors", "metrics.jsonl"):
        (stopped / "run" / name).unlink()
    assert decompose("--seed", "1") == 0
    assert read(stopped / "run" / "run.toml")["training"]["seed"] == 1
    assert not list((stopped / "run").glob("replaced-*"))


def test_run_toml_says_nothing_of_the_call(folder):
    assert decompose("--json") == 0
    keys = read(folder / "run" / "run.toml").keys()
    assert not keys & {"out", "json", "overwrite", "trust", "device"}
    assert {"model", "data", "rows", "training"} <= keys


OLD_NAMES = {
    "dense_warmup": "warm_start",
    "resample_every": "revive_every",
    "resample_until": "revive_until",
}


@pytest.mark.parametrize(
    ("old", "new"), [("token", "sampled-token"), ("every-token", "token"), ("sample", "sample")]
)
def test_a_file_of_format_1(folder, monkeypatch, old, new):
    text = (folder / "stories" / "run.toml").read_text()
    for now, then in OLD_NAMES.items():
        assert f"\n{now} = " in text
        text = text.replace(f"\n{now} = ", f"\n{then} = ")
    text = text.replace('rows = "sampled-token"', f'rows = "{old}"')
    write_text(folder / "old" / "run.toml", text.replace("warm_start = 0.1", "warm_start = 0.2"))
    seen = []
    monkeypatch.setattr("subscape.cli.decompose.run", seen.append)
    assert main(["decompose", "--config", "old/run.toml"]) == 0
    assert (seen[0].rows, seen[0].training.dense_warmup) == (new, 0.2)
    # Today's words mean what they mean today.
    (folder / "new.toml").write_text('model = "llama"\ndata = "train.txt"\nrows = "token"\n')
    assert main(["decompose", "--config", "new.toml"]) == 0
    assert seen[1].rows == "token"


def test_a_run_of_format_1_is_measured(folder, command):
    path = folder / "net" / "run.toml"
    text = path.read_text()
    for now, then in OLD_NAMES.items():
        text = text.replace(f"\n{now} = ", f"\n{then} = ")
    path.write_text('out = "net"\n' + text)
    assert json.loads(command("sweep", "net", "--deltas", "1", "--json"))["delta"] == [1]


def test_what_was_picked_is_said(folder, capsys):
    assert decompose("--l0", "2") == 0
    text = capsys.readouterr().out
    for line in (
        "rows        sample",
        "divergence  mse",
        "reference   mean",
        "row weight  0.5",
        "metric      kronecker",
        "rank        1",
        "k           2 of 4 subnetworks a row",
        "training    20 × 16 rows, rate 0.006",
    ):
        assert f"  {line}" in text
    for flag in ("--rows", "--divergence", "--reference", "--engine", "--rank", "--l0"):
        assert flag in text
    assert "are few for 4 subnetworks" in text
    assert "  subscape measure run --trust\n" in text


def test_a_language_model_gets_the_settings_of_one(folder, capsys):
    few = [*SETTINGS.split(), "--window", "4"]
    arguments = ["decompose", "llama", "--data", "train.txt", *few, "--out"]
    assert main([*arguments, "one"]) == 0
    text = capsys.readouterr().out
    picks = {"rows": "token", "divergence": "kl", "reference": "mean", "row_weight": "unit"}
    picks |= {"metric": "kronecker", "parameters": ["model.layers.0.mlp"]}
    for name in ("rows", "divergence", "reference", "metric"):
        assert f"  {name:<11} {picks[name]} " in text
    table = tomllib.loads((folder / "one" / "run.toml").read_text())
    assert {name: table[name] for name in picks} == picks
    assert table["training"]["active_fraction"] == 0.05
    assert main([*arguments, "published", "--recipe", "published"]) == 0
    table = tomllib.loads((folder / "published" / "run.toml").read_text())
    published = {"reference": "another-row", "row_weight": "norm", "metric": "euclidean"}
    assert {name: table[name] for name in picks} == picks | published
    said = ["--rows", "sampled-token", "--divergence", "mse", "--parameters", "lm_head"]
    assert main([*arguments, "two", *said]) == 0
    table = tomllib.loads((folder / "two" / "run.toml").read_text())
    assert (table["rows"], table["divergence"]) == ("sampled-token", "mse")
    assert table["parameters"] == ["lm_head"]


def test_a_classifier_gets_kl(tmp_path):
    class ToyForImageClassification(torch.nn.Linear): ...

    np.savez(tmp_path / "digits.npz", data=np.zeros((3, 2)), labels=np.arange(3))
    np.savez(tmp_path / "targets.npz", data=np.zeros((3, 2)), labels=np.zeros(3))
    plain = torch.nn.Linear(2, 2)
    assert is_classifier(ToyForImageClassification(2, 2), "module:data")
    assert is_classifier(plain, str(tmp_path / "digits.npz"))
    assert not is_classifier(plain, str(tmp_path / "targets.npz"))
    assert not is_classifier(plain, "module:data")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("LlamaConfig", "model.layers.1.mlp"),
        ("GPT2Config", "transformer.h.1.mlp"),
        ("GPTNeoXConfig", "gpt_neox.layers.1.mlp"),
        ("OPTConfig", "model.decoder.layers.1.fc1 model.decoder.layers.1.fc2"),
    ],
)
def test_the_middle_block_is_found_in_any_decoder(config, expected):
    transformers = pytest.importorskip("transformers")
    made = getattr(transformers, config)(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=3,
        num_attention_heads=2,
        n_embd=8,
        n_layer=3,
        n_head=2,
    )
    model = transformers.AutoModelForCausalLM.from_config(made)
    assert middle_mlp(model) == tuple(expected.split())
    assert middle_mlp(torch.nn.Linear(2, 2)) is None
