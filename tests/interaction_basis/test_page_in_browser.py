"""The page in a real browser: it draws, answers to mouse and keys, filters, and needs no network."""

import dataclasses
import json

import pytest
import torch

from subscape.interaction_basis import InteractionGraph, find_modules
from subscape.interaction_basis.basis import raw_basis
from subscape.interaction_basis.causal import Effect
from subscape.interaction_basis.page import graph_page
from subscape.interaction_basis.responses import png

NASTY = '<img src=x onerror="document.title=1">'


@pytest.fixture
def page(driver, tmp_path):
    edges = torch.block_diag(torch.full((2, 2), 100.0), torch.full((2, 2), 50.0)).double()
    edges[0, 3] = 2.0
    last = raw_basis("n2", 4)
    last = dataclasses.replace(last, importance=torch.tensor([1.0, 4.0, 4.0, 1.0]).double())
    bases = (raw_basis(NASTY, 4), raw_basis("n1", 4), last)
    graph = InteractionGraph(bases, (edges, edges))
    modules = find_modules(graph, [1.0, 1.0], last_layer=True)
    path = tmp_path / "graph.html"
    labels = {(0, 0): NASTY, (1, 1): "second"}
    responses = {
        "layers": [[[[7, 1, 2.5]]]],
        "samples": {"7": {"tokens": ["once", NASTY, "time"]}},
        "maps": {"0.0": png(torch.rand(3, 4, 4))},
    }
    ablation = {"score": NASTY, "base": 0.9, "tolerance": 0.01, "names": [NASTY, "n1", "n2"]}
    ablation["lib"] = {"sections": [{"n_edges": 9}, {"n_edges": 9}]}
    text = graph_page(
        graph,
        modules,
        [1.0, 1.0],
        title="Two blocks",
        labels=labels,
        ablation=ablation,
        effects=[Effect(0, 1, 2, 0.5, 0.7, 0.6, (0.8,), (0.4,))],
        responses=responses,
    )
    path.write_text(text)
    # Pages before this one may have left messages, a size and a colour scheme.
    driver.get("about:blank")
    for log in ("performance", "browser"):
        driver.get_log(log)
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    driver.get(path.as_uri())
    yield driver
    assert [m for m in driver.get_log("browser") if m["level"] == "SEVERE"] == []


def visible(driver, but="none"):
    return driver.execute_script(
        "return [...document.querySelectorAll('.edge')].filter(e => e.style.display !== 'none'"
        f" && !e.classList.contains('{but}')).length"
    )


def bright(driver):
    return visible(driver, but="dimmed")


def test_it_draws_and_is_escaped(page):
    assert page.title == "Two blocks"
    assert visible(page) == 18
    assert len(page.find_elements("css selector", ".node")) == 12
    assert page.find_elements("css selector", "img") == []
    assert "2 modules of 6, 6" in page.find_element("id", "counts").text
    # The most important direction is the largest wherever it stands.
    sizes = [float(c.get_attribute("r")) for c in page.find_elements("css selector", "circle")]
    assert sizes[-4:] == [6, 8, 8, 6]


def test_hovering_shows_the_edges_of_a_direction(page):
    from selenium.webdriver import ActionChains

    node = page.find_elements("css selector", ".node circle")[4]
    ActionChains(page).move_to_element(node).perform()
    # Direction 0 of n1: from 0, 1 and weakly 3 before it, to 0 and 1 after it.
    assert bright(page) == 5
    about = page.find_element("id", "about").text
    assert "n1, direction 1" in about
    assert "5 edges" in about
    ActionChains(page).move_to_element(page.find_element("css selector", "h1")).perform()
    assert bright(page) == 18


def test_keys_move_and_escape_leaves(page):
    from selenium.webdriver import ActionChains, Keys

    page.execute_script("document.querySelector('.node').focus()")
    assert "direction 1: <img" in page.find_element("id", "about").text
    ActionChains(page).send_keys(Keys.ARROW_RIGHT).send_keys(Keys.ARROW_DOWN).perform()
    assert "n1, direction 2: second" in page.find_element("id", "about").text
    ActionChains(page).send_keys(Keys.ESCAPE).perform()
    assert page.find_element("id", "about").text == ""


def test_weak_edges_and_those_between_modules_can_be_left_out(page):
    page.find_element("id", "across").click()
    assert visible(page) == 16
    page.execute_script(
        "const s = document.getElementById('least'); s.value = 950;"
        "s.dispatchEvent(new Event('input'))"
    )
    # log10(50) is .85 of log10(100).
    assert visible(page) == 8


def test_it_asks_the_network_for_nothing(page):
    sent = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    # The browser's own start page makes requests too.
    addresses = [
        m["params"]["request"]["url"]
        for m in sent
        if m["method"] == "Network.requestWillBeSent"
        and m["params"]["documentURL"].startswith("file:")
    ]
    assert addresses
    assert all(address.startswith(("file:", "data:")) for address in addresses)


def test_what_a_direction_responds_to_is_shown(page):
    page.execute_script("document.querySelector('.node').focus()")
    about = page.find_element("id", "about")
    (image,) = about.find_elements("css selector", "img")
    assert image.get_property("naturalWidth") == 4
    assert "red above its mean" in about.text
    # A map takes the place of the samples; without one they are shown, the place marked.
    page.execute_script("delete data.responses.maps['0.0']; document.activeElement.blur()")
    page.execute_script("document.querySelector('.node').focus()")
    assert "sample 7: 2.50" in about.text
    assert about.find_element("css selector", "mark").text == NASTY


def test_modules_are_listed_and_can_be_sorted_by(page):
    assert "z = " in page.find_element("id", "chance").text
    (line, _) = page.find_elements("css selector", "#modules tr")[1:]
    assert "0.500 (0.800)" in line.text
    assert page.find_element("id", "left-out").text == "All 18 required edges are drawn."

    def tops():
        return [
            round(node.rect["y"]) for node in page.find_elements("css selector", ".node circle")[:4]
        ]

    before = tops()
    assert before == sorted(before)
    page.execute_script("data.layers[0].directions[0].module = 1")
    page.execute_script(
        "const s = document.getElementById('sort'); s.value = 'module';"
        "places.module[0] = [2, 0, 1, 3]; s.dispatchEvent(new Event('change'))"
    )
    after = tops()
    assert after != before and sorted(after) == before


@pytest.mark.parametrize("width", [390, 1100])
def test_it_fits_a_telephone(page, width):
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 400}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    page.refresh()
    wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.execute_script(wide) == 0
    if width == 390:
        # All layers are seen without scrolling.
        box = "const s = document.getElementById('scroll'); return s.scrollWidth - s.clientWidth"
        assert page.execute_script(box) <= 0


def test_light_and_dark(page):
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        colours = page.execute_script(
            "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
        )
        ink, paper = (sum(map(int, c[c.index("(") + 1 : -1].split(",")[:3])) for c in colours)
        assert (ink < paper) == (scheme == "light")
