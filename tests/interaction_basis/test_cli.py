import functools
import importlib
import json
import shutil

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("networkx")
pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def quick():
    """A smaller network of the digits, trained once for all commands."""
    from subscape.reproduce.digits import digits_task

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("subscape.reproduce.digits.STEPS", 150)
        patch.setattr("subscape.reproduce.digits.HIDDEN", 10)
        patch.setattr("subscape.cli.basis_file.digits_task", functools.cache(digits_task))
        yield


def run(*arguments):
    from subscape.cli.main import main

    return main([str(a) for a in arguments])


def test_all_stages_of_the_digits(tmp_path, quick, capsys, monkeypatch):
    config = tmp_path / "digits.toml"
    config.write_text('task = "digits"\ntolerance = 0.02\n[basis]\nlast = "raw"\n')
    folder = tmp_path / "run"
    results = {}
    for stage in ("build", "edges", "ablate", "modules", "effects", "report"):
        where = (config, "--out", folder) if stage == "build" else (folder,)
        assert run("basis", stage, *where, "--json") == 0
        results[stage] = json.loads(capsys.readouterr().out)
    assert [layer["width"] for layer in results["build"]["layers"]] == [64, 10, 10, 10]
    assert len(results["edges"]["lib"]) == 3
    assert results["ablate"]["total"]["lib"] > 0
    assert results["ablate"]["base"] > 0.85
    assert results["modules"]["lib"]["sizes"]
    names = {path.name for path in folder.iterdir()}
    assert names >= {"basis.toml", "ablation.json", "modules.json"}
    assert names >= {"graph-lib.html", "graph-pca.png"}
    # A run can be asked again, with another setting and in words.
    assert run("basis", "modules", folder, "--resolution", "2.0") == 0
    assert "LIB  sizes" in capsys.readouterr().out
    monkeypatch.setattr("subscape.cli.basis.report_stage", lambda folder: [folder / "page"])
    for stage in ("build", "edges", "ablate", "report"):
        assert run("basis", stage, folder) == 0
        assert str(folder) in capsys.readouterr().out


DECODER = 'task = "decoder"\nweights = '
WRONG = {
    "tolerence = 1": "settings among",
    "[basis]\nlast_layer = true": "settings among",
    'task = "digit"': "task: expected modular-addition, digits",
    'task = "modular-addition"': "weights: expected a path that exists",
    'task = "modular-addition"\nweights = "folder"': "a path that exists, of a file",
    f'{DECODER}"folder"': "a Hugging Face folder with its config.json",
    f'{DECODER}"model"\ntext = "model"': "text: expected a path that exists, of a file",
    'task = "nowhere:task"': "package.module:function that can be imported",
    'task = "json:JSONDecoder"': "a Task from",
    'tolerance = "x"': "c.toml: tolerance: expected a number; got a string",
    "seed = 1.5": "c.toml: seed: expected a whole number; got a number",
    "seed = true": "seed: expected a whole number; got true or false",
    "curves = 1": "curves: expected true or false; got a whole number",
    "task = 3": "task: expected a string; got a whole number",
    'midpoint = "sqrt"': "midpoint: expected one of ['linear', 'log']; got 'sqrt'",
    "basis = 3": "basis: expected a table; got a whole number",
    '[basis]\nrtol = "a"': "c.toml: basis.rtol: expected a number; got a string",
    "[basis]\nsign_positions = 0": "sign_positions: expected a whole number of at least 1",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_configuration_is_refused(tmp_path, capsys, text):
    (tmp_path / "folder").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    config = tmp_path / "c.toml"
    config.write_text(f"{text}\n")
    assert run("basis", "build", config, "--out", tmp_path / "r", "--trust") == 2
    assert WRONG[text] in capsys.readouterr().err
    if 'task = "' not in text:
        assert not (tmp_path / "r").exists()


def test_stages_out_of_order_and_folders_that_are_no_runs(tmp_path, capsys):
    def said(*arguments):
        assert run("basis", *arguments) == 2
        return capsys.readouterr().err

    (tmp_path / "c.toml").write_text('task = "digits"')
    begun = tmp_path / "c.toml", "--out", tmp_path / "r"
    assert "Run `subscape basis edges` first" in said("report", *begun)
    assert "Run `subscape basis ablate` first" in said("modules", *begun)
    assert "a TOML file that exists" in said("build", tmp_path / "none.toml")
    (tmp_path / "empty").mkdir()
    assert "a run folder with its basis.toml" in said("report", tmp_path / "empty")
    for name in ("lib/mine.py", "labels.json"):
        project = tmp_path / name.replace("/", "-")
        (project / name).parent.mkdir(parents=True)
        (project / name).write_text("mine")
        refused = said("edges", tmp_path / "c.toml", "--out", project)
        assert "that of a run, with its basis.toml" in refused
        assert [p for p in project.rglob("*") if p.is_file()] == [project / name]


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
    real, made = stages.required_of, []

    def interrupted(*arguments, **options):
        if len(made) == 4:
            raise KeyboardInterrupt
        made.append(1)
        return real(*arguments, **options)

    monkeypatch.setattr(stages, "required_of", interrupted)
    assert run("basis", "ablate", folder, "--json") == 130
    assert not (folder / "ablation.json").exists()
    made.clear()
    assert run("basis", "ablate", folder, "--json") == 0
    assert len(made) == 2
    resumed = json.loads((folder / "ablation.json").read_text())
    shutil.rmtree(folder / "build" / "ablation")
    monkeypatch.setattr(stages, "required_of", real)
    assert run("basis", "ablate", folder, "--json") == 0
    assert json.loads((folder / "ablation.json").read_text()) == resumed

    # The same thresholds leave the modules theirs, with others they are refused.
    assert run("basis", "modules", folder, "--json") == 0
    assert run("basis", "ablate", folder, "--json") == 0
    assert (folder / "modules.json").exists()
    assert run("basis", "ablate", folder, "--json", "--tolerance", "0.4") == 0
    capsys.readouterr()
    assert run("basis", "report", folder) == 2
    assert "Run `subscape basis modules` first" in capsys.readouterr().err
    # Nothing was deleted: back at the first tolerance they are right again.
    assert run("basis", "ablate", folder, "--json") == 0
    assert run("basis", "report", folder, "--json") == 0


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


OWN_MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 3)
    def forward(self, x):
        hidden = torch.relu(self.one(x))
        return self.three(torch.relu(self.two(hidden)) + hidden)

def model():
    torch.manual_seed(0)
    return Net().double()
"""


def test_one_command_from_a_model_to_its_page(tmp_path, monkeypatch, capsys):
    import numpy
    import torch

    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_net.py").write_text(OWN_MODEL)
    inputs = torch.randn(200, 3).double()
    numpy.savez("x.npz", inputs=inputs.numpy(), labels=inputs.argmax(1).numpy())
    line = "basis run own_net:model --data x.npz --out r --tolerance 0.02 --cuts"
    assert run(*line.split(), "input", "one", "two", "output", "--json") == 0
    results = json.loads(capsys.readouterr().out)
    assert [layer["width"] for layer in results["build"]["layers"]] == [3, 6, 12, 3]
    assert set(results["ablate"]["total"]) == {"lib", "pca", "random"}
    assert results["ablate"]["score"] == "accuracy"
    assert "random rotation" in (tmp_path / "r" / "graph-lib.html").read_text()
    # Later stages run what the folder names only if they are told to, from anywhere.
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run("basis", "ablate", tmp_path / "r") == 2
    assert "own_net:model', which" in capsys.readouterr().err
    assert run("basis", "ablate", tmp_path / "r", "--trust", "--json") == 0
    assert json.loads(capsys.readouterr().out)["total"] == results["ablate"]["total"]
    assert run("basis", "run", tmp_path / "r", "--trust") == 0
    assert "random rotation" in capsys.readouterr().out


def test_subnetworks_beside_modules(tmp_path, monkeypatch, capsys):
    import numpy
    import torch

    import subscape

    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_net.py").write_text(OWN_MODEL)
    inputs = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)).double()
    numpy.savez("x.npz", inputs=inputs.numpy(), labels=inputs.argmax(1).numpy())
    cuts = "--cuts input one two output --data x.npz --out r --tolerance 0.0 --shuffled 0 --json"
    assert run("basis", "run", "own_net:model", *cuts.split()) == 0
    model = importlib.import_module("own_net").model().eval()
    options = {"n_subnetworks": 4, "steps": 3, "batch_size": 20, "progress": False}
    found = subscape.decompose(subscape.Target(model, "two.weight"), inputs, **options)
    found.save_pretrained("subnetworks")
    capsys.readouterr()
    assert run("basis", "bridge", "r", "--trust") == 2
    assert "subnetworks: expected a run of `subscape decompose`" in capsys.readouterr().err
    bridge = "basis", "bridge", "r", "--trust", "--subnetworks", "subnetworks"
    assert run(*bridge) == 0
    assert "largest share of one module, mean: subnetworks 0." in capsys.readouterr().out
    shares = json.loads((tmp_path / "r" / "bridge.json").read_text())["shares"]
    for kind in ("subnetworks", "random", "principal"):
        rows = torch.tensor(shares[kind])
        assert 1 <= len(rows) <= 4
        assert torch.allclose(rows.sum(1), torch.ones(len(rows)))
    assert run("basis", "report", "r") == 0
    page = (tmp_path / "r" / "graph-lib.html").read_text()
    assert "Subnetworks through modules: where a push" in page
    # Of other modules it says nothing.
    assert run("basis", "modules", "r", "--shuffled", "0", "--resolution", "3") == 0
    assert run("basis", "report", "r") == 0
    assert (
        "Subnetworks through modules: where a push"
        not in (tmp_path / "r" / "graph-lib.html").read_text()
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--cuts one output", "data: expected data of the model; got none"),
        ("--cuts one --data x.npy", "cuts: expected two names"),
        ("--cuts one nothing --data x.npy", "cuts: expected names of modules"),
        ("--cuts one output --data y.npy", "data: expected a file that exists"),
    ],
)
def test_a_model_without_what_it_needs_is_refused(tmp_path, monkeypatch, capsys, flags, message):
    import numpy

    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_net.py").write_text(OWN_MODEL)
    numpy.save("x.npy", numpy.zeros((9, 3)))
    assert run("basis", "run", "own_net:model", *flags.split(), "--json") == 2
    assert message in capsys.readouterr().err


def test_a_task_beside_its_file_is_found_from_elsewhere(tmp_path, monkeypatch, capsys):
    home = tmp_path / "home"
    home.mkdir()
    (home / "task_elsewhere.py").write_text(
        "import torch\n"
        "from subscape.interaction_basis import ACCURACY, Chain, Scored, Task\n"
        "def task():\n"
        "    inputs = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)).double()\n"
        "    chain = Chain(('x', 'y'), (torch.tanh,))\n"
        "    return Task(chain, inputs, Scored(inputs, inputs.argmax(-1), ACCURACY))\n"
    )
    (home / "own.toml").write_text('task = "task_elsewhere:task"\nlast_layer = true\n')
    monkeypatch.chdir(tmp_path)
    line = "basis", "build", home / "own.toml", "--trust", "--json", "--out", tmp_path / "r"
    assert run(*line) == 0, capsys.readouterr().err
    # The copy in the run knows where its code is.
    monkeypatch.chdir(home.parent.parent)
    for stage in ("edges", "ablate", "modules", "effects", "report"):
        assert run("basis", stage, tmp_path / "r", "--trust", "--json") == 0
