"""`subscape explore` opens what a run folder names."""

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


def test_a_run_that_was_not_measured_is_refused(folder, explored, capsys):
    assert call("explore", "bare", "--trust") == 2
    assert "subscape measure RUN" in capsys.readouterr().err
    assert explored == []
