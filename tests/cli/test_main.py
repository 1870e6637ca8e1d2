"""The command line from the outside: files it leaves, what it prints, what it says of wrong arguments."""

import json
import subprocess
import sys
import tomllib
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from subscape.cli import toml
from subscape.cli.decompose import DecomposeRun
from subscape.cli.main import main
from subscape.demo import digits
from subscape.measures.measure import measure
from subscape.subnetworks.decomposition import Decomposition

MODEL = """
import torch
from torch import nn

def model():
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=generator)
    return net

def nothing():
    return 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a module that makes a model, and a file of inputs; the working folder."""
    (tmp_path / "small_model_of_test.py").write_text(MODEL)
    x = torch.randn(300, 4, generator=torch.Generator().manual_seed(1))
    save_file({"inputs": x}, tmp_path / "x.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


SETTINGS = "--n-subnetworks 4 --rank 1 --steps 30 --batch-size 16 --n-heldout-rows 20"
START = "decompose small_model_of_test:model --data x.safetensors --checkpoint-every 10 --out run"
AGAIN = "decompose --config run/run.toml --trust --out"


def decompose(*more):
    return main([*START.split(), *SETTINGS.split(), *more])


def test_decompose_leaves_a_run_folder(folder, capsys):
    assert decompose("--json") == 0
    printed = json.loads(capsys.readouterr().out)
    names = "run.toml metrics.jsonl checkpoint.safetensors final"
    assert {p.name for p in (folder / "run").iterdir()} == set(names.split())
    found = Decomposition.from_pretrained(folder / "run" / "final")
    assert len(found) == 4
    assert found.metrics["fvu"] == printed["metrics"]["fvu"]
    assert not list(folder.rglob("*.p*kl"))


def test_run_toml_replays_the_run(folder):
    assert decompose() == 0
    assert main(f"{AGAIN} again".split()) == 0
    first, second = (Decomposition.from_pretrained(folder / d / "final") for d in ("run", "again"))
    assert torch.equal(first.decoder.weights, second.decoder.weights)


def test_flags_override_the_file(folder):
    assert decompose() == 0
    assert main(f"{AGAIN} other --n-subnetworks 3".split()) == 0
    assert len(Decomposition.from_pretrained(folder / "other" / "final")) == 3


def test_other_settings_in_the_same_folder_are_refused(folder, capsys):
    assert decompose() == 0
    before = {p: p.read_bytes() for p in (folder / "run").rglob("*") if p.is_file()}
    assert decompose("--seed", "1") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert before == {p: p.read_bytes() for p in (folder / "run").rglob("*") if p.is_file()}
    assert decompose("--seed", "1", "--overwrite") == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("decompose small_model_of_test:model --data y.npz --out o", ["data", "'y.npz'"]),
        ("decompose small_model_of_test:nothing --data x.safetensors --out o", ["model", "int"]),
        ("decompose no.such:thing --data x.safetensors --out o", ["model", "no.such:thing"]),
        ("decompose ./nowhere --data x.safetensors --out o", ["model", "./nowhere"]),
        (
            "decompose small_model_of_test:model --data x.safetensors --parameters 0.wieght --out o",
            ["parameters", "'0.wieght'", "0.weight"],
        ),
        (
            "decompose small_model_of_test:model --data x.safetensors --rank 9 --out o",
            ["rank", "9", "0.weight"],
        ),
        (
            "decompose small_model_of_test:model --data x.safetensors --rank 1 --batch-size 999 --out o",
            ["batch_size", "999"],
        ),
        ("decompose --config none.toml", ["config", "none.toml"]),
    ],
)
def test_a_wrong_argument_gets_one_line_and_leaves_nothing(folder, capsys, arguments, words):
    before = sorted(p.name for p in folder.iterdir())
    assert main(arguments.split()) == 2
    error = capsys.readouterr().err.strip()
    assert "Traceback" not in error
    assert error.startswith("subscape: ")
    for word in words:
        assert word in error
    assert sorted(p.name for p in folder.iterdir() if p.name != "__pycache__") == before


def test_unknown_key_in_a_config_file(folder, capsys):
    (folder / "c.toml").write_text('model = "small_model_of_test:model"\n[training]\nstep = 3\n')
    assert main(["decompose", "--config", "c.toml"]) == 2
    error = capsys.readouterr().err
    assert "'step'" in error
    assert "steps" in error


def test_help_explains_every_setting(capsys):
    with pytest.raises(SystemExit):
        main(["decompose", "--help"])
    text = capsys.readouterr().out
    for flag in ("--parameters", "--active-fraction", "--dense-warmup", "--n-restarts", "--rows"):
        assert flag in text


def test_toml_round_trip():
    table = {
        "name": 'a "quoted" \\ name, ü',
        "number": 3,
        "share": 0.1,
        "flag": True,
        "list": ["a", "b"],
        "none": None,
        "training": {"steps": 5, "rank": {"*.weight": 0.1, "*": 2}},
    }
    read = tomllib.loads(toml.dumps(table, leave_out=("flag",)))
    assert read == {k: v for k, v in table.items() if k not in ("none", "flag")}


def test_toml_builds_nested_settings():
    made = toml.build(
        DecomposeRun,
        {"model": "m", "data": "d", "out": "o", "training": {"steps": 7, "rank": [1, 2]}},
        "file",
    )
    assert made.out == Path("o")
    assert made.training.steps == 7
    assert list(made.training.rank) == [1, 2]
    assert toml.build(DecomposeRun, tomllib.loads(toml.dumps(made)), "file") == made


def test_demo_finds_the_circuits(tmp_path, monkeypatch, capsys, trained_tms, unchecked):
    monkeypatch.setattr("subscape.demo.toy.tms", lambda seed: trained_tms)
    monkeypatch.setattr("subscape.demo.toy.STEPS", 400)
    monkeypatch.setattr("subscape.demo.toy.N_RESTARTS", 4)
    short = replace(digits.TRAINING, steps=100)
    monkeypatch.setattr("subscape.demo.digits.TRAINING", short)
    monkeypatch.setattr("subscape.demo.digits.EPOCHS", 10)
    for half in ("toy", "digits"):
        few = partial(measure, n_rows=800, n_references=3, n_others=12, n_deltas=2, n_partners=1)
        monkeypatch.setattr(f"subscape.demo.{half}.measure", few)
    monkeypatch.setattr("subscape.measures.quality.N_ROWS", 256)
    assert main(["demo", "--out", str(tmp_path / "demo"), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["toy"]["matched"] == figures["toy"]["truths"] == 5
    assert figures["toy"]["fvu"] < 0.3
    picture = (tmp_path / "demo" / "toy" / "subnetworks.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 20_000
    # In the whitened metric; the first principal directions, as many, leave four fifths unexplained.
    assert figures["digits"]["fvu"] < 0.5 < 0.8 < figures["digits"]["baselines"][0]["fvu"]
    strongest = figures["digits"]["classes"][:5]
    assert sum(c["share"] for c in strongest) / 5 > 0.8  # a class drawn at random: 0.1
    for name in ("toy", "digits"):
        page = (tmp_path / "demo" / name / "report.html").read_text()
        assert page.startswith("<!doctype html>")
        assert "subscape-report/2" in page


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model = 3", "c.toml: model: expected a string; got a whole number."),
        ('parameters = "a.*"', "parameters: expected a list; got a string"),
        (
            'rows = "tokens"',
            "rows: expected one of ['sample', 'sampled-token', 'token']; got 'tokens'",
        ),
        ("json = 1", "json: expected true or false; got a whole number"),
        ("steps = 3", "It belongs in the table [training]."),
        ("training = 3", "training: expected a table; got a whole number"),
        (
            '[training]\nlearning_rate = "x"',
            "training.learning_rate: expected a number; got a string",
        ),
        (
            "[training]\nn_subnetworks = true",
            "training.n_subnetworks: expected a whole number; got true or false",
        ),
        ("[training]\nrank = 'x'", "expected a whole number or a number or a table or a list; got"),
        ("[training]\nsteps = -3", "steps: expected a whole number of at least 1; got -3"),
        ("[training]\nschedule = 'x'", "expected one of ['cosine', 'step', 'constant']; got 'x'"),
        ("out = 3", "out: expected a string; got"),
        ("model = 'm", "c.toml: expected a TOML file; got"),
        ("[training]\nrank = [1, 2.5]", "training.rank[1]: expected a whole number; got a number"),
    ],
)
def test_types_in_a_config_file(folder, capsys, text, words):
    (folder / "c.toml").write_text(text)
    assert main(["decompose", "--config", "c.toml"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("subscape: c.toml")
    assert words in line


def test_config_after_an_equals_sign(folder):
    assert decompose() == 0
    assert main(["decompose", "--config=run/run.toml", "--trust", "--out", "again", "--json"]) == 0
    assert (folder / "again" / "final").is_dir()


def test_a_refused_command_overwrites_nothing(folder, capsys):
    assert decompose() == 0
    kept = {p: p.read_bytes() for p in (folder / "run").rglob("*") if p.is_file()}
    assert decompose("--overwrite", "--rank", "9") == 2
    assert "rank" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in (folder / "run").rglob("*") if p.is_file()} == kept
    assert decompose("--overwrite", "--seed", "1") == 0


def test_an_error_in_the_users_function_says_where(folder, capsys):
    (folder / "broken_of_test.py").write_text("def data():\n    return {}['x']\n")
    assert main(["decompose", "small_model_of_test:model", "--data", "broken_of_test:data"]) == 2
    error = capsys.readouterr().err
    assert "broken_of_test:data', which raised KeyError: 'x'" in error
    assert "broken_of_test.py:2" in error


def test_a_file_of_many_arrays_is_named_shortly(folder, capsys):
    save_file({f"array_{i}": torch.ones(2) for i in range(50)}, "many.safetensors")
    assert main(["decompose", "small_model_of_test:model", "--data", "many.safetensors"]) == 2
    error = capsys.readouterr().err
    assert "got 50 arrays" in error
    assert len(error) < 300


def test_an_unwritable_run_folder(folder, capsys):
    assert decompose("--out", "x.safetensors/run") == 2
    assert "expected a place to write to; got x.safetensors/run" in capsys.readouterr().err


def test_a_warning_is_shown_once(folder, monkeypatch, capsys):
    def twice(_):
        for _ in range(2):
            with warnings.catch_warnings():
                pass  # makes Python forget what it has shown
            warnings.warn("mind this", stacklevel=1)

    monkeypatch.setattr("subscape.cli.decompose.run", twice)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert decompose() == 0
    assert capsys.readouterr().err == "subscape: mind this\n"


def test_a_reader_that_has_seen_enough():
    program = "import sys; from subscape.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
