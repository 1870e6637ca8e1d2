"""Every command ends with what to do next, and that can be done."""

import pytest

from subscape.cli.next_step import then

SWEEP = ["--subnetwork", "1", "--deltas", "-0.5", "2"]


@pytest.mark.parametrize(
    ("arguments", "begins"),
    [
        (["top", "net"], "top net --subnetwork "),
        (["top", "net", "--subnetwork", "2"], "edit net --trust --set 2"),
        (["report", "net", "-o", "report.html"], "top net"),
        (["sweep", "net", *SWEEP], "edit net --trust --set 1=2"),
    ],
)
def test_the_next_command_is_named_and_works(command, arguments, begins):
    text = command(*arguments).split("\nNext\n")[1]
    commands = [line.removeprefix("  subscape ") for line in text.splitlines()]
    assert commands[0].startswith(begins)
    for line in commands:
        command(*(word for word in line.split() if word != "--trust"))


def test_after_a_check_comes_the_decomposition(command):
    what = "small_model_of_commands:model --data x.safetensors"
    assert f"  subscape decompose {what}\n" in command("check", *what.split(), "--n-rows", "4")


def test_it_can_be_typed_where_the_environment_is_not_activated(monkeypatch):
    monkeypatch.setattr("sys.argv", [".venv/bin/subscape", "demo"])
    monkeypatch.setenv("PATH", "")
    assert then("top RUN") == "\nNext\n  .venv/bin/subscape top RUN"
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    assert then("top RUN", "demo") == "\nNext\n  subscape top RUN\n  subscape demo"
