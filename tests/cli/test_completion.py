"""What a shell offers with the script in place."""

import contextlib
import io
import re
import subprocess

import pytest

from subscape.cli.main import COMMANDS, main

OFFERED = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
_subscape
echo "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    text = io.StringIO()
    with contextlib.redirect_stdout(text), pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "80")
        assert main(["completion", "bash"]) == 0
    file = tmp_path_factory.mktemp("completion") / "subscape.bash"
    file.write_text(text.getvalue())
    return file


@pytest.fixture
def offered(script):
    def ask(*words):
        asked = ["bash", "-c", OFFERED, "bash", str(script), "subscape", *words]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()

    return ask


def test_commands(offered):
    assert offered("") == [*COMMANDS, "--help", "--version"]
    assert offered("me") == ["measure"]


def test_flags_of_the_command(offered):
    assert offered("measure", "--n-r") == ["--n-rows", "--n-references"]
    assert "--consolidate" in offered("decompose", "MODEL", "--")
    assert "--consolidate" not in offered("measure", "RUN", "--")


def test_nothing_but_flags_is_offered(offered):
    for command in ("measure", "decompose", "basis"):
        assert all(re.fullmatch(r"--[a-z][a-z0-9-]*", flag) for flag in offered(command, "--"))


def test_what_a_flag_takes(offered):
    assert offered("decompose", "MODEL", "--recipe", "") == ["published", "whitened"]
    assert offered("decompose", "MODEL", "--recipe", "w") == ["whitened"]


def test_files_are_left_to_the_shell(offered, script):
    assert offered("measure", "ru") == []
    assert "complete -o default -F _subscape subscape" in script.read_text()


def test_zsh_reads_the_same_by_its_own_means(capsys, script, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["completion", "zsh"]) == 0
    text = capsys.readouterr().out
    assert text == "autoload -U +X bashcompinit && bashcompinit\n" + script.read_text()
