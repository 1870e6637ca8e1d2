"""The page as a file: what it may hold, how large it is, how it is written."""

import json
import math
import re
from pathlib import Path

import pytest

from subscape.report import page
from subscape.report.page import render_page, write_page

EVIL = "</script><img src=x onerror=alert(1)>"
TEMPLATE = "{{data}} {{nothing}}"


@pytest.fixture(scope="module")
def data(make_data):
    return make_data("tokens", n=4, n_samples=3)


def embedded(html):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found
    return found[1]


def test_embedded_data_cannot_end_the_script_they_stand_in(data):
    bad = f"{EVIL}<!--\u2028\u2029&amp;\ud800"
    data = {**data, "title": bad, "settings": {bad: bad}}
    html = render_page(data)
    text = embedded(html)
    assert not re.search("[<>&\u2028\u2029]", text)
    assert json.loads(text)["title"] == bad
    html.encode()
    assert EVIL not in html
    assert "<title>{{data}} {{nothing}}</title>" in render_page(data | {"title": TEMPLATE})
    assert html.count("<script") == html.count("</script>") == 2


def test_the_page_refers_to_nothing_outside_itself(data):
    html = render_page(data)
    without_names = html.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"(https?:)?//\w", re.sub(r"^\s*//.*$", "", without_names, flags=re.M))
    assert "default-src 'none'" in html
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|eval\(", html)


def test_a_hundred_or_a_thousand_subnetworks_are_under_ten_megabytes(make_data, thousand):
    for kind in ("tokens", "images"):
        html = render_page(make_data(kind, n=100, n_samples=20, context=16))
        assert len(html.encode()) < 10_000_000
    assert thousand.stat().st_size < 10_000_000


def test_writing_returns_the_path_and_leaves_only_the_file(data, tmp_path):
    path = write_page(tmp_path / "reports" / "page.html", data)
    assert path == tmp_path / "reports" / "page.html"
    assert path.read_text(encoding="utf-8") == render_page(data)
    assert list(path.parent.iterdir()) == [path]


def test_only_an_earlier_page_is_replaced_and_only_when_asked(data, tmp_path):
    path = write_page(tmp_path / "page.html", {**data, "title": "Old"})
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write_page(path, data)
    assert "<title>Old</title>" in path.read_text(encoding="utf-8")
    for of_before in (
        path.read_text(encoding="utf-8"),
        '<!doctype html>{"format":"subscape-report/1"}',
    ):
        path.write_text(of_before, encoding="utf-8")
        write_page(path, data, overwrite=True)
        assert path.read_text(encoding="utf-8") == render_page(data)
    with pytest.raises(ValueError, match="JSON"):
        write_page(path, {**data, "heldout": {"fvu": math.nan}}, overwrite=True)
    assert [p.read_text(encoding="utf-8") for p in tmp_path.iterdir()] == [render_page(data)]
    for content in ("mine", "<!doctype html>mine", '{"method": "l3d"}'):
        path.write_text(content)
        with pytest.raises(FileExistsError, match="no earlier result"):
            write_page(path, data, overwrite=True)
        assert path.read_text() == content


def test_places_that_are_no_file(data, tmp_path):
    with pytest.raises(IsADirectoryError, match="Name a file inside it"):
        write_page(tmp_path, data, overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="a place to write to; got .*page.html"):
        write_page(tmp_path / "file" / "page.html", data)
    with pytest.raises(OSError, match="a place to write to"):
        write_page(tmp_path / ("x" * 300), data)


def test_a_large_page_is_written_with_a_warning(data, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(page, "LARGE", 1000)
    assert write_page(tmp_path / "page.html", data).exists()
    assert "fewer top samples" in caplog.text


def test_every_asset_is_used():
    folder = Path(page.__file__).parent / "assets"
    assert {p.name for p in folder.iterdir()} == {"page.html", "page.css", *page.SCRIPTS}
