"""`subscape explore` opens what a run folder names."""

import signal
import subprocess
import sys
import urllib.request

import pytest

from tests.cli.conftest import call


@pytest.fixture
def explored(monkeypatch):
    """What would be served."""
    seen = []
    monkeypatch.setattr("subscape.cli.explore.explore", lambda *a, **k: seen.append((a, k)))
    return seen


def test_a_language_model_comes_with_its_tokenizer_and_names(folder, explored):
    assert call("explore", "stories") == 0
    (decomposition, target, data, measures), more = explored[0]
    assert len(decomposition) == len(measures) == 4
    assert data["input_ids"].shape[1] == 6
    assert more["tokenizer"].decode([1]) == "once"
    assert more["token_names"](1) == more["output_names"](1) == "once"
    assert str(more["folder"]) == more["command"] == "stories"
    assert target.names == decomposition.layout.names


def test_a_network_of_ones_own_is_only_called_if_trusted(folder, explored, capsys):
    assert call("explore", "net") == 2
    assert "--trust" in capsys.readouterr().err
    assert call("explore", "net", "--trust") == 0
    assert explored[0][1]["tokenizer"] is None
    assert explored[0][1]["command"] == "net --trust"


def test_another_run_is_measured_too(folder, explored, capsys):
    assert call("explore", "net", "--trust", "--beside", "bare") == 2
    assert "subscape measure RUN" in capsys.readouterr().err
    assert call("explore", "net", "--trust", "--beside", "net") == 0
    assert explored[0][1]["other"].title == "net"


def test_an_interrupt_ends_it_without_a_word(folder):
    program = "import sys; from subscape.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, *["explore", "net", "--trust", "--port", "0"]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as it:
        for line in it.stdout:
            if "token=" in line:
                break
        with urllib.request.urlopen(line.strip()) as page:
            assert page.status == 200
        it.send_signal(signal.SIGINT)
        _, said = it.communicate(timeout=60)
    assert (it.returncode, said) == (0, "")


def test_a_run_that_was_not_measured_is_refused(folder, explored, capsys):
    assert call("explore", "bare", "--trust") == 2
    assert "subscape measure RUN" in capsys.readouterr().err
    assert explored == []
