import json
import re
from pathlib import Path

import pytest

from subscape.measures import Measures
from subscape.report.labels import Label, Labels
from tests.cli.conftest import WORDS, call


@pytest.mark.parametrize("run", ["net", "stories"])
def test_it_writes_one_page(folder, command, run: str):
    printed = json.loads(command("report", run, "-o", "r.html", "--json"))
    page = (folder / "r.html").read_bytes()
    assert printed == {"out": "r.html", "bytes": len(page)}
    assert page.startswith(b"<!doctype html>") or page.startswith(b"<!DOCTYPE html>")
    title = b"2 tensors" if run == "net" else b"llama \xc2\xb7 model.layers.0.self_attn"
    assert title in page or run == "net"
    assert b"<b>" not in page  # a token is no markup
    assert "open it in a browser" in command("report", run, "-o", "r.html", "--overwrite")


def test_the_title_can_be_given(folder, command):
    command("report", "net", "--title", "A & B")
    assert "<title>A &amp; B</title>" in (folder / "report.html").read_text()


def test_a_file_that_is_there_is_kept(folder, refused):
    (folder / "report.html").write_text("mine")
    assert "a new file" in refused("report", "net")
    assert (folder / "report.html").read_text() == "mine"


def test_places_that_cannot_be_written_to(folder, refused):
    assert "the folder net" in refused("report", "net", "-o", "net", "--overwrite")
    (folder / "file").write_text("")
    assert "file/r.html" in refused("report", "net", "-o", "file/r.html")


def test_a_run_without_measures(refused):
    assert "Measure first" in refused("report", "bare")


def data_of(path):
    text = Path(path).read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_sliders_come_with_the_model_and_are_left_out_without_it(folder, command, capsys):
    command("report", "stories", "-o", "moving.html")
    moved = data_of("moving.html")["moving"]
    assert set(moved["names"].values()) <= set(WORDS)
    assert moved["rows"]
    command("report", "stories", "-o", "still.html", "--still")
    assert "moving" not in data_of("still.html")
    assert call("report", "net", "-o", "net.html") == 0  # whose model is code that nobody trusts
    assert "moving" not in data_of("net.html")
    assert call("report", "net", "-o", "trusted.html", "--trust") == 0
    assert data_of("trusted.html")["moving"]["rows"]


def test_names_and_notes_stand_in_the_report_and_those_of_another_run_do_not(folder, command):
    measures = Measures.load("stories/measures")
    Labels(measures.decomposition).with_label(2, Label("cats", "or dogs")).save("stories")
    command("report", "stories", "-o", "named.html", "--still")
    assert data_of("named.html")["labels"] == {"2": {"name": "cats", "note": "or dogs", "by": ""}}
    Labels("of another").with_label(2, Label("cats")).save("stories")
    command("report", "stories", "-o", "other.html", "--still")
    assert data_of("other.html")["labels"] == {}


def test_a_file_in_the_way_is_refused_before_the_model_is_pushed(folder, refused, monkeypatch):
    Path("mine.html").write_text("mine")
    monkeypatch.setattr("subscape.report.build.moving", None)
    assert "mine.html" in refused("report", "stories", "-o", "mine.html", "--overwrite")
