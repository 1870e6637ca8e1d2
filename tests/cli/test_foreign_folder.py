"""A folder that came from somebody else runs nothing: code is named on the command line, or trusted there."""

import json
import sys

import pytest

from subscape.cli.main import main

EVIL = """
from pathlib import Path
Path("ran").touch()

def model():
    raise SystemExit("ran")
"""
MODEL = ["--model", "small_model_of_commands:model"]
DATA = ["--data", "x.safetensors"]


@pytest.fixture
def foreign(folder):
    """The run `net`, whose run.toml names a module that lies inside it."""
    (folder / "net" / "evil.py").write_text(EVIL)
    return folder / "net"


def name(foreign, **names: str) -> None:
    path = foreign / "run.toml"
    kept = [line for line in path.read_text().splitlines() if line.split(" ")[0] not in names]
    path.write_text("\n".join([*(f'{k} = "{v}"' for k, v in names.items()), *kept]) + "\n")


def refusal(capsys, *arguments: str) -> str:
    capsys.readouterr()
    assert main([*arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.strip().splitlines()
    return line


COMMANDS = [
    ["measure", "net"],
    ["evaluate", "net"],
    ["sweep", "net"],
    ["edit", "net", "--set", "1=1", "--prompt", "a"],
    ["finetune", "net", "--data", "x.safetensors", "--loss", "cross-entropy"],
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda a: a[0])
@pytest.mark.parametrize("module", ["net.evil", "evil", "os"])
@pytest.mark.parametrize("inside", [False, True])
def test_a_model_that_the_folder_names_is_not_imported(
    foreign, capsys, monkeypatch, arguments, module, inside
):
    name(foreign, model=f"{module}:model")
    if inside:
        monkeypatch.chdir(foreign)
        arguments = ["." if a == "net" else a for a in arguments]
    line = refusal(capsys, *arguments)
    assert line.startswith("subscape: model: expected code that you name yourself")
    assert f"'{module}:model', which " in line
    assert "run.toml names" in line
    assert f"--model {module}:model" in line
    assert "--trust" in line
    assert not list(foreign.parent.rglob("ran"))
    assert "evil" not in sys.modules


@pytest.mark.parametrize("key", ["data", "heldout"])
@pytest.mark.parametrize("arguments", COMMANDS[:3], ids=lambda a: a[0])
def test_data_that_the_folder_names_are_not_imported(foreign, capsys, arguments, key):
    name(foreign, **{key: "net.evil:model"} | ({"heldout": ""} if key == "data" else {}))
    line = refusal(capsys, *arguments, *MODEL)
    assert "data: expected code that you name yourself" in line
    assert "--data net.evil:model" in line
    assert not (foreign.parent / "ran").exists()


@pytest.mark.filterwarnings("ignore:the report's sliders are left out")  # as it says
@pytest.mark.parametrize("arguments", [["top", "net"], ["report", "net"]], ids=lambda a: a[0])
def test_commands_that_need_no_model_go_on(foreign, capsys, arguments):
    name(foreign, model="net.evil:model")
    assert main([*arguments]) == 0
    assert not (foreign.parent / "ran").exists()


@pytest.mark.parametrize("given", [MODEL, ["--trust"]], ids=lambda a: a[0])
def test_the_two_ways_to_go_on(folder, capsys, given):
    assert main(["sweep", "net", "--json", "--deltas", "1", *given]) == 0
    assert json.loads(capsys.readouterr().out)["delta"] == [1]


@pytest.mark.parametrize("key", ["model", "data", "heldout"])
def test_a_configuration_file_names_no_code(foreign, capsys, key):
    name(foreign, **{"model": "llama", key: "net.evil:model"})
    line = refusal(capsys, "decompose", "--config", "net/run.toml", "--out", "new")
    assert f"{key}: expected code that you name yourself; got 'net.evil:model'" in line
    assert "net/run.toml names" in line
    assert not (foreign.parent / "ran").exists()
    assert not (foreign.parent / "new").exists()


def test_a_configuration_file_with_the_code_on_the_command_line(folder, capsys):
    more = ["--config", "net/run.toml", "--json"]
    assert main(["decompose", "small_model_of_commands:model", *more, "--out", "one"]) == 0
    assert main(["decompose", *more, "--trust", "--out", "two"]) == 0
    one, two = ((folder / run / "run.toml").read_text() for run in ("one", "two"))
    assert one.replace('"one"', '"two"') == two
    assert "trust" not in two


@pytest.mark.parametrize("key", ["trust", "overwrite"])
def test_a_configuration_file_gives_no_leave(foreign, capsys, key):
    path = foreign / "run.toml"
    path.write_text(f"{key} = true\n{path.read_text()}")
    line = refusal(capsys, "decompose", "--config", "net/run.toml")
    assert f"Say --{key} on the command line" in line


@pytest.mark.parametrize("module", ["colorsys", "networkx"])
def test_a_module_in_the_folder_does_not_pass_for_an_installed_one(
    foreign, capsys, monkeypatch, module
):
    (foreign / f"{module}.py").write_text(EVIL)
    monkeypatch.chdir(foreign)
    monkeypatch.delitem(sys.modules, module, raising=False)
    refusal(capsys, "measure", ".", "--model", f"{module}:model")
    assert not (foreign / "ran").exists()
    assert str(foreign) not in sys.path


AUTO = {
    "AutoConfig": "evil.Config",
    "AutoModelForCausalLM": "evil.Model",
    "AutoTokenizer": ["evil.Tokenizer", None],
}


@pytest.mark.parametrize("kind", ["llama", "own"])
@pytest.mark.parametrize("command", ["edit", "basis", "check"])
def test_the_code_of_a_model_folder_is_not_run(folder, capsys, monkeypatch, kind, command):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a prompt"))
    (folder / "llama" / "evil.py").write_text(EVIL.replace('"ran"', repr(str(folder / "ran"))))
    path = folder / "llama" / "config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"auto_map": AUTO, "model_type": kind})
    )
    (folder / "c.toml").write_text('task = "decoder"\nweights = "llama"\ntext = "stories.txt"\n')
    status = main(
        {
            "edit": ["edit", "stories", "--set", "1=0", "--prompt", "a", "--json"],
            "basis": ["basis", "build", "c.toml", "--json"],
            "check": ["check", "llama", "--data", "stories.txt", "--json"],
        }[command]
    )
    printed = capsys.readouterr()
    assert not (folder / "ran").exists()
    assert "Traceback" not in printed.err
    if kind == "own":
        assert status == 2
        assert len(printed.err.strip().splitlines()) == 1
        assert printed.out == ""
