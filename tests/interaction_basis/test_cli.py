import json
import shutil

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("networkx")
pytest.importorskip("matplotlib")


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("subscape.reproduce.digits.STEPS", 300)
    monkeypatch.setattr("subscape.reproduce.digits.HIDDEN", 10)


def run(*arguments):
    from subscape.cli.main import main

    return main([str(a) for a in arguments])


def test_all_stages_of_the_digits(tmp_path, quick, capsys):
    config = tmp_path / "digits.toml"
    config.write_text('task = "digits"\ntolerance = 0.02\n[basis]\nlast = "raw"\n')
    folder = tmp_path / "run"
    results = {}
    for stage in ("build", "edges", "ablate", "modules", "report"):
        where = (config, "--out", folder) if stage == "build" else (folder,)
        assert run("basis", stage, *where, "--json") == 0
        results[stage] = json.loads(capsys.readouterr().out)
    assert [layer["width"] for layer in results["build"]["layers"]] == [64, 10, 10, 10]
    assert len(results["edges"]["lib"]) == 3
    assert results["ablate"]["total"]["lib"] > 0
    assert results["ablate"]["base"] > 0.85
    assert results["modules"]["lib"]["sizes"]
    names = {path.name for path in folder.iterdir()}
    assert {
        "basis.toml",
        "ablation.json",
        "modules.json",
        "graph-lib.html",
        "graph-pca.png",
    } <= names
    # A run can be asked again, with another setting and in words.
    assert run("basis", "modules", folder, "--resolution", "2.0") == 0
    assert "LIB  sizes" in capsys.readouterr().out
    for stage in ("build", "edges", "ablate", "report"):
        assert run("basis", stage, folder) == 0
        assert str(folder) in capsys.readouterr().out


def test_stages_out_of_order_and_wrong_settings_say_so(tmp_path, capsys):
    def said(text, stage="build", **lines):
        config = tmp_path / "c.toml"
        config.write_text(text)
        assert run("basis", stage, config, "--out", tmp_path / "r", "--json", "--trust") == 2
        return capsys.readouterr().err

    assert "Run `subscape basis edges` first" in said('task = "digits"', "report")
    assert "Run `subscape basis ablate` first" in said('task = "digits"', "modules")
    assert "settings among" in said("tolerence = 1")
    assert "settings among" in said("[basis]\nlast_layer = true")
    assert "task: expected modular-addition, digits" in said('task = "digit"')
    assert "weights: expected a path that exists" in said('task = "modular-addition"')
    assert "package.module:function that can be imported" in said('task = "nowhere:task"')
    assert "a Task from" in said('task = "json:JSONDecoder"')
    assert run("basis", "build", tmp_path / "none.toml") == 2
    assert "a TOML file that exists" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["lib/mine.py", "labels.json"])
def test_a_folder_that_is_no_runs_is_left_alone(tmp_path, capsys, name):
    (tmp_path / "c.toml").write_text('task = "digits"')
    mine = tmp_path / "project" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    assert run("basis", "edges", tmp_path / "c.toml", "--out", tmp_path / "project") == 2
    assert "that of a run, with its basis.toml" in capsys.readouterr().err
    assert [p for p in (tmp_path / "project").rglob("*") if p.is_file()] == [mine]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('tolerance = "x"', "c.toml: tolerance: expected a number; got a string"),
        ("seed = 1.5", "c.toml: seed: expected a whole number; got a number"),
        ("seed = true", "seed: expected a whole number; got true or false"),
        ("curves = 1", "curves: expected true or false; got a whole number"),
        ("task = 3", "task: expected a string; got a whole number"),
        ('midpoint = "sqrt"', "midpoint: expected one of ['linear', 'log']; got 'sqrt'"),
        ("basis = 3", "basis: expected a table; got a whole number"),
        ('[basis]\nrtol = "a"', "c.toml: basis.rtol: expected a number; got a string"),
        ("[basis]\nsign_positions = 0", "sign_positions: expected a whole number of at least 1"),
    ],
)
def test_values_of_another_type_are_refused(tmp_path, capsys, line, message):
    config = tmp_path / "c.toml"
    config.write_text(f"{line}\n")
    assert run("basis", "build", config, "--out", tmp_path / "r") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_files_of_the_wrong_kind_are_named(tmp_path, capsys):
    def said(*lines):
        config = tmp_path / "c.toml"
        config.write_text("\n".join(lines))
        assert run("basis", "build", config, "--out", tmp_path / "r") == 2
        return capsys.readouterr().err

    (tmp_path / "text.txt").write_text("Once upon a time")
    (tmp_path / "model").mkdir()
    decoder = 'task = "decoder"'
    assert "weights: expected a path that exists, of a file" in said(
        'task = "modular-addition"', 'weights = "model"'
    )
    assert "a Hugging Face folder with its config.json" in said(decoder, 'weights = "model"')
    (tmp_path / "model" / "config.json").write_text("{}")
    assert "text: expected a path that exists, of a file" in said(
        decoder, 'weights = "model"', 'text = "model"'
    )
    (tmp_path / "empty").mkdir()
    assert run("basis", "report", tmp_path / "empty") == 2
    assert "a run folder with its basis.toml" in capsys.readouterr().err


def test_a_run_keeps_the_settings_that_it_was_begun_with(tmp_path, quick, capsys):
    config, folder = tmp_path / "c.toml", tmp_path / "r"
    config.write_text('[basis]\nlast = "raw"\n')
    assert run("basis", "build", config, "--out", folder, "--json") == 0
    config.write_text('seed = 1\n[basis]\nlast = "pca"\n')
    assert run("basis", "edges", config, "--out", folder, "--json") == 2
    assert "differs in seed, basis.last. Choose another folder" in capsys.readouterr().err
    assert 'last = "raw"' in (folder / "basis.toml").read_text()
    # What bases and edges do not depend on may change.
    config.write_text('tolerance = 0.5\n[basis]\nlast = "raw"\n')
    assert run("basis", "edges", config, "--out", folder, "--json") == 0
    assert "tolerance = 0.5" in (folder / "basis.toml").read_text()


def test_an_interrupted_ablation_goes_on_where_it_was(tmp_path, quick, capsys, monkeypatch):
    from subscape.interaction_basis import stages

    config, folder = tmp_path / "c.toml", tmp_path / "r"
    config.write_text('tolerance = 0.02\n[basis]\nlast = "raw"\n')
    assert run("basis", "edges", config, "--out", folder, "--json") == 0
    real, made = stages.edges_required, []

    def interrupted(*arguments, **options):
        if len(made) == 4:
            raise KeyboardInterrupt
        made.append(1)
        return real(*arguments, **options)

    monkeypatch.setattr(stages, "edges_required", interrupted)
    assert run("basis", "ablate", folder, "--json") == 130
    assert not (folder / "ablation.json").exists()
    made.clear()
    assert run("basis", "ablate", folder, "--json") == 0
    assert len(made) == 2
    resumed = json.loads((folder / "ablation.json").read_text())
    shutil.rmtree(folder / "build" / "ablation")
    monkeypatch.setattr(stages, "edges_required", real)
    assert run("basis", "ablate", folder, "--json") == 0
    assert json.loads((folder / "ablation.json").read_text()) == resumed

    # The same thresholds leave the modules, others take them away: they would no longer be theirs.
    assert run("basis", "modules", folder, "--json") == 0
    assert run("basis", "ablate", folder, "--json") == 0
    assert (folder / "modules.json").exists()
    assert run("basis", "ablate", folder, "--json", "--tolerance", "0.4") == 0
    capsys.readouterr()
    assert run("basis", "report", folder) == 2
    assert "Run `subscape basis modules` first" in capsys.readouterr().err


def test_a_task_of_ones_own(tmp_path, monkeypatch, capsys):
    (tmp_path / "own_task.py").write_text(
        "import torch\n"
        "from subscape.interaction_basis import ACCURACY, Chain, Scored, Task\n"
        "def task():\n"
        "    inputs = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)).double()\n"
        "    chain = Chain(('x', 'y'), (torch.tanh,))\n"
        "    return Task(chain, inputs, Scored(inputs, inputs.argmax(-1), ACCURACY))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own.toml").write_text('task = "own_task:task"\n')
    assert run("basis", "edges", "own.toml") == 2
    assert "--task own_task:task, or run what this file names: --trust" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    assert run("basis", "ablate", "own.toml", "--trust") == 2
    assert "basis edges" in capsys.readouterr().err
    assert run("basis", "edges", "own.toml", "--task", "own_task:task", "--json") == 0
    assert json.loads(capsys.readouterr().out)["run"] == "runs/own"
    assert run("basis", "ablate", "runs/own") == 2
    assert "own_task:task', which runs/own/basis.toml names" in capsys.readouterr().err
    assert run("basis", "ablate", "runs/own", "--trust", "--json", "--tolerance", "0.1") == 0
    assert json.loads(capsys.readouterr().out)["base"] == 1
