import json

import pytest


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
