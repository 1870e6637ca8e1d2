"""The check of the documentation site's links finds what is broken."""

import runpy
from pathlib import Path

LINKS = Path(__file__).parents[1] / "docs" / "_ext" / "links.py"


def test_broken_links_are_found(tmp_path):
    broken = runpy.run_path(str(LINKS))["broken"]
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.html").write_text('<h1 id="there">B</h1><a href="../a.html">up</a>')
    (tmp_path / "a.html").write_text(
        '<a href="sub/b.html#there">1</a><a href="https://example.org/none">2</a><a href="#">3</a>'
        '<img src="data:,"><a href="#none">4</a><a href="c.html">5</a>'
        '<a href="sub/b.html#gone">6</a><script src="https://example.org/x.js"></script>'
    )
    assert list(broken(tmp_path)) == [
        "a.html: loads https://example.org/x.js",
        "a.html: #none",
        "a.html: c.html",
        "a.html: sub/b.html#gone",
    ]
