"""`subscape compare` from the outside."""

import json
import shutil

import pytest

from subscape.cli.main import main
from subscape.measures import Measures
from subscape.report.labels import Label, Labels


def test_two_runs(folder, capsys):
    shutil.copytree("net", "twin")
    known = Measures.load(folder / "net" / "measures")
    Labels(known.decomposition).with_label(2, Label("<b>mine</b>")).save(folder / "net")
    line = ["compare", "net", "twin", "--trust", "-o", "page.html"]
    assert main(line) == 0
    shown = capsys.readouterr().out
    assert "4 pairs over 120 rows" in shown and "rows shuffled" in shown
    assert "<b>mine</b>" in shown and "subscape explore net --beside twin" in shown
    page = (folder / "page.html").read_text()
    assert "&lt;b&gt;mine&lt;/b&gt;" in page and "<b>mine" not in page
    assert main(line) == 2
    assert "page.html, which exists" in capsys.readouterr().err
    assert main([*line, "--overwrite", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {(p["a"], p["b"]) for p in result["pairs"]} == {(k, k) for k in range(4)}
    assert result["shuffled"]["mean"] < result["agreement"]["mean"]


def test_contexts_are_on_the_page(folder, capsys):
    assert main(["compare", "stories", "stories", "-o", "page.html"]) == 0
    assert "<mark>" in (folder / "page.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["net", "net"], "--trust"),
        (["net", "net", "--trust", "-o", "x.safetensors", "--overwrite"], "no earlier result"),
        (["net", "net", "--trust", "--n", "0"], "n: expected at least 1"),
        (["net", "nowhere"], "nowhere"),
    ],
)
def test_refusals(folder, capsys, arguments, words):
    assert main(["compare", *arguments]) == 2
    assert words in capsys.readouterr().err
