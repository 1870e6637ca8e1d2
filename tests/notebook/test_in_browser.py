"""The widget's script in a real browser, called as anywidget calls it."""

import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.browser import Page

STAND_IN = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><title>Notebook</title>
<div id="cell"></div>
<script type="module">
const state = %s;
const heard = {};
window.saved = [];
window.model = {
  get: (name) => state[name],
  set: (name, value) => { state[name] = value; },
  save_changes: () => window.saved.push(state.subnetwork),
  on: (event, then) => { (heard[event] ??= []).push(then); },
  off: (event, then) => { heard[event] = heard[event].filter((other) => other !== then); },
  fromPython: (name, value) => { state[name] = value; for (const then of heard[`change:${name}`] ?? []) then(); },
  listeners: () => Object.values(heard).flat().length,
};
const { default: widget } = await import(URL.createObjectURL(new Blob([state._esm], { type: "text/javascript" })));
window.remove = await widget.render({ model: window.model, el: document.getElementById("cell") });
</script>
"""
INSIDE = "const inside = document.querySelector('iframe')?.contentDocument; "


def opened(title):
    """Whether the frame shows a card of this title."""
    heading = "inside?.querySelector('#card-title')?.textContent"
    return INSIDE + f"return {heading}?.startsWith('{title}') ?? false"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder and its address: notebooks are served, and files have no origin for frames to share."""
    folder = tmp_path_factory.mktemp("site")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def notebook(driver, measured, site):
    pytest.importorskip("anywidget")
    found, measures, model = measured
    state = found.show(1, measures, model=model, height=500).get_state()
    kept = {name: state[name] for name in ("_esm", "page", "subnetwork", "height")}
    folder, address = site
    text = STAND_IN % json.dumps(kept).replace("<", "\\u003c")
    (folder / "notebook.html").write_text(text, encoding="utf-8")
    return Page(driver, address + "notebook.html")


@pytest.fixture
def cell(notebook):
    notebook.open("#start")
    notebook.until(opened("Subnetwork 1"))
    return notebook


def test_the_card_opens_with_its_sliders(cell):
    frame = cell.one("iframe")
    assert frame.size["height"] == 500 and frame.get_attribute("title") == "Subnetworks"
    assert cell.js(INSIDE + "return inside.querySelectorAll('#card input.delta').length") == 1
    shown = INSIDE + "return inside.querySelector('#card .outcomes').textContent"
    before = cell.js(shown)
    cell.js(
        INSIDE + "const slider = inside.querySelector('#card input.delta'); slider.value = -1;"
        "slider.dispatchEvent(new Event('input'))"
    )
    assert cell.js(shown) != before
    assert cell.messages() == []
    inside = ("blob:", "data:", "about:", cell.address)
    assert all(request.startswith(inside) for request in cell.requests())


def test_python_opens_another_card(cell):
    cell.js("window.model.fromPython('subnetwork', 2)")
    cell.until(opened("Subnetwork 2"))
    cell.js("window.model.fromPython('subnetwork', null)")
    cell.until(INSIDE + "return !inside.querySelector('#list').hidden")
    cell.js("window.model.fromPython('height', 333)")
    assert cell.one("iframe").size["height"] == 333


def test_python_hears_which_card_the_reader_opens(cell):
    cell.js(INSIDE + "inside.querySelector('.steps button.step:not([disabled])').click()")
    cell.until("return window.saved.length === 1")
    there = cell.js("return window.saved[0]")
    assert there != 1
    cell.until(opened(f"Subnetwork {there}"))
    cell.js(INSIDE + "inside.getElementById('to-overview').click()")
    cell.until("return window.saved.at(-1) === null")
    # The overview stays: to hear of no card is not to be sent to the list.
    assert cell.js(INSIDE + "return inside.body.dataset.view") == "overview"


def test_nothing_is_left_when_the_cell_goes(cell):
    assert cell.js("return window.model.listeners()") == 2
    cell.js("window.remove()")
    assert cell.js("return window.model.listeners()") == 0


def test_the_page_for_readers_without_widgets_opens_at_its_card(driver, measured, site):
    found, measures, _ = measured
    folder, address = site
    still = found.show(2, measures)._repr_html_()
    text = f'<!doctype html><link rel="icon" href="data:,">{still}'
    (folder / "read.html").write_text(text, encoding="utf-8")
    page = Page(driver, address + "read.html").open("#start")
    driver.switch_to.frame(page.one("iframe"))
    try:
        page.until(
            "return document.querySelector('#card-title')?.textContent.startsWith('Subnetwork 2')"
        )
        page.js("document.getElementById('to-list').click()")
        page.until("return !document.querySelector('#list').hidden")
    finally:
        driver.switch_to.default_content()
