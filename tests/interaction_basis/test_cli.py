import json

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("networkx")
pytest.importorskip("matplotlib")


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("subscape.interaction_basis.task.DIGITS_STEPS", 300)
    monkeypatch.setattr("subscape.interaction_basis.task.DIGITS_HIDDEN", 10)


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
        assert run("basis", stage, config, "--out", tmp_path / "r", "--json") == 2
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
    assert run("basis", "ablate", "own.toml") == 2
    assert "basis edges" in capsys.readouterr().err
    assert run("basis", "edges", "own.toml", "--json") == 0
    assert json.loads(capsys.readouterr().out)["run"] == "runs/own"
    assert run("basis", "ablate", "runs/own", "--json", "--tolerance", "0.1") == 0
    assert json.loads(capsys.readouterr().out)["base"] == 1


def test_reproduction_of_the_digits(tmp_path, quick, capsys):
    arguments = ("reproduce", "digits-mlp", "--seeds", "2", "--out", tmp_path / "r")
    assert run(*arguments, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["seeds"] == [0, 1]
    assert summary["ratio"] <= 1.05
    assert (tmp_path / "r" / "edges-required.png").exists()
    written = json.loads((tmp_path / "r" / "results.json").read_text())
    assert written["summary"] == summary
    assert run(*arguments) == 2
    assert "results.json" in capsys.readouterr().err


def test_reproduction_of_modular_addition_wants_its_checkpoints(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("SUBSCAPE_DATA", raising=False)
    assert run("reproduce", "modular-addition", "--out", tmp_path / "r") == 2
    assert "SUBSCAPE_DATA" in capsys.readouterr().err
    wrong = ("--data", tmp_path)
    assert run("reproduce", "modular-addition", "--out", tmp_path / "r", *wrong) == 2
    assert "seed0.safetensors" in capsys.readouterr().err


@pytest.mark.slow
def test_reproduction_of_modular_addition(data_dir, tmp_path, capsys):
    out = tmp_path / "r"
    assert (
        run("reproduce", "modular-addition", "--out", out, "--data", data_dir / "rib_modadd") == 0
    )
    results = json.loads((out / "results.json").read_text())
    by_seed = {r["seed"]: r for r in results["runs"]}
    assert by_seed[3]["edges_required"]["lib"] == [58, 60, 535]
    leading = [next(iter(f)) for f in by_seed[3]["frequencies"]]
    assert sorted(leading) == ["36", "38", "49"]
    for run_of_seed in results["runs"]:
        for method, published in run_of_seed["published"].items():
            for n, wanted in zip(run_of_seed["edges_required"][method], published, strict=True):
                assert abs(n - wanted) <= max(3, 0.03 * wanted)
