"""The explorer in a real browser: every screen, at every width, light and dark, by keyboard alone."""

import json
from importlib import resources
from importlib.util import find_spec

import pytest
import torch

from tests.browser import Page
from tests.explorer.conftest import WORDS

SCREENS = (
    "#gallery",
    "#playground/1",
    "#compare/0,2",
    "#subnetwork-1",
    "#subnetworks",
    "#overview",
)
READY = {
    "#gallery": "return document.querySelectorAll('.sub').length > 1",
    "#playground/1": "return document.querySelectorAll('.outcomes tbody tr, .meter tbody').length > 4",
    "#compare/0,2": "return document.querySelector('.crossed') !== null",
    "#subnetwork-1": "return document.querySelector('#card .label') !== null",
    "#subnetworks": "return document.querySelectorAll('#list tbody tr').length === 4",
    "#overview": "return document.getElementById('overview').dataset.drawn === 'all'",
}
SERIOUS = """
const done = arguments[0];
axe.run(document, {resultTypes: ['violations']}).then((found) => done(found.violations
  .filter((v) => ['serious', 'critical'].includes(v.impact))
  .map((v) => `${v.id}: ${v.nodes.map((n) => n.target.join(' ')).slice(0, 4).join(', ')}`)));
"""


@pytest.fixture(scope="module")
def address(served, words):
    return served(words)[0]


@pytest.fixture(scope="module")
def page(driver, address):
    return Page(driver, address)


@pytest.fixture(scope="module")
def pictured(driver, served, pictures):
    return Page(driver, served(pictures)[0])


def text_of(page, selector):
    return page.one(selector).text


def bars(page):
    """Names and widths of the bars."""
    return page.js(
        "return [...document.querySelectorAll('.outcomes tbody tr')].map(r => "
        "[r.querySelector('th').textContent, r.querySelector('.change').textContent])"
    )


def axe():
    found = find_spec("axe_core_python")
    assert found is not None, "the dev extra holds axe-core-python"
    return (resources.files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [1440, 768, 390])
@pytest.mark.parametrize("kind", ["words", pytest.param("pictures", marks=pytest.mark.slow)])
def test_every_screen_fits_is_quiet_and_asks_nobody_else(page, pictured, kind, width):
    shown = page if kind == "words" else pictured
    for dark in (False, True):
        for place in SCREENS:
            shown.open(place, width=width, dark=dark)
            shown.until(READY[place])
            assert shown.js("return document.documentElement.scrollWidth") <= width, place
            if width != 768:
                shown.js(axe())
                assert shown.driver.execute_async_script(SERIOUS) == [], (place, dark)
            assert shown.messages() == []
            base = shown.address.split("?")[0]
            outside = [u for u in shown.requests() if not u.startswith(("data:", base))]
            assert outside == []


def test_bars_are_those_of_the_row_that_a_subnetwork_is_for(page, words):
    entry = words.measures[1]
    row = entry.top_samples[0]
    page.open("#playground/1", width=1440)
    page.until(READY["#playground/1"])
    said = "section.panel h2 .tok"
    token = WORDS[int(words.data["input_ids"][row.sample, row.position])]
    page.until(f"return document.querySelector('{said}')?.textContent === '{token}'")
    moved = words.decomposition.edited(words.model, {1: entry.delta * entry.side})
    with torch.no_grad():
        logits = moved(words.data["input_ids"][row.sample][None]).logits[0, row.position]
    expected = [100 * p for p in logits.double().softmax(-1).tolist()]
    shown = (
        "return [...document.querySelectorAll('.outcomes tbody tr')]"
        ".map(r => parseFloat(r.cells[2].textContent))"
    )
    page.until(f"{shown}.every((p, i) => Math.abs(p - {expected}[i]) < 0.06)")


def test_a_slider_moves_bars_the_meter_and_the_text_and_undo_takes_it_back(page):
    page.open("#playground/1", width=1440)
    page.until(READY["#playground/1"])
    page.until("return document.querySelector('.written .text') !== null")
    assert text_of(page, ".pin output") == "1×"
    at_one = bars(page)
    assert [name for name, _ in at_one] == WORDS
    slider = page.one(".pin .delta")
    slider.send_keys("")
    page.js("document.querySelector('.pin .delta').focus()")
    page.press("END")
    page.until("return document.querySelector('.pin output').textContent === '3×'")
    page.until(f"return {json.dumps(at_one)} !== JSON.stringify([])")
    assert "δ = " in text_of(page, ".pin .exact")
    page.until("return document.querySelectorAll('.meter tbody').length === 2")
    page.js("window.was = document.querySelector('.meter').textContent")
    page.press("HOME")
    page.until("return document.querySelector('.meter').textContent !== window.was")
    page.one(".board button[title='Ctrl+Z']").click()
    page.until("return document.querySelector('.pin output').textContent === '3×'")
    page.one(".board button[title='Ctrl+Z']").click()
    page.until("return document.querySelector('.pin output').textContent === '1×'")
    page.until(f"return document.querySelectorAll('.outcomes tbody tr').length === {len(WORDS)}")
    assert page.messages() == []


def test_at_nought_nothing_moves_and_random_directions_are_said_to_be(page):
    page.open("#playground/2", width=1440)
    page.until(READY["#playground/1"])
    page.one(".board .panel-head .do:last-child").click()
    page.until("return document.querySelector('.pin output').textContent === '0×'")
    page.until(
        "return [...document.querySelectorAll('.change')].every(c => c.textContent === '±0')"
    )
    page.until(
        "return document.querySelector('.meter').closest('section').textContent.includes('Nothing is pushed')"
    )
    assert not page.one(".taken button").is_enabled()
    page.js("document.querySelector('.pin .delta').focus()")
    page.press("END")
    page.one(".board input[type=checkbox]").click()
    page.until(
        "return document.body.textContent.includes('The sliders move random directions now')"
    )
    assert page.messages() == []


def test_a_typed_text_is_cut_to_tokens_that_can_be_looked_at(page):
    page.open("#playground", width=1440)
    page.until("return document.querySelector('.piece') !== null")
    box = page.one("#prompt")
    box.clear()
    box.send_keys("once upon a dog")
    page.until("return document.querySelectorAll('.piece').length === 4")
    page.all(".piece")[1].click()
    page.until("return document.querySelector('section.panel h2 .tok')?.textContent === 'upon'")
    assert page.all(".piece")[1].get_attribute("aria-pressed") == "true"


def test_the_keyboard_alone_gets_to_a_push(page):
    page.open("#gallery", width=1440)
    page.until(READY["#gallery"])
    for _ in range(60):
        page.press("TAB")
        if page.js("return document.activeElement.matches('.sub a[href^=\"#play\"]')"):
            break
    page.press("ENTER")
    page.until(READY["#playground/1"])
    for _ in range(60):
        page.press("TAB")
        if page.js("return document.activeElement.type") == "range":
            break
    page.js("window.was = document.activeElement.value")
    page.press("ARROW_RIGHT")
    page.until("return document.activeElement.value !== window.was")
    label = page.js("return document.activeElement.getAttribute('aria-valuetext')")
    assert "its own δ, δ = " in label


def test_names_are_kept_shown_and_found(driver, served, words):
    address, folder = served(words)
    page = Page(driver, address).open("#subnetwork-2", width=1440)
    page.until(READY["#subnetwork-1"])
    name = page.one("#card .label input")
    name.send_keys("Dogs")
    page.press("TAB")
    page.until("return document.querySelector('.saying').textContent.includes('labels.json')")
    assert json.loads((folder / "labels.json").read_text())["labels"]["2"]["name"] == "Dogs"
    page.js("location.hash = 'gallery'")
    page.until(READY["#gallery"])
    page.one("#search").send_keys("dogs")
    page.until("return document.querySelectorAll('.sub').length === 1")
    assert "Dogs" in text_of(page, ".sub h2")


def test_the_verdict_has_its_baseline(page):
    page.open("#gallery", width=1440)
    page.until(READY["#gallery"])
    said = text_of(page, ".verdict")
    assert "4 subnetworks" in said
    assert "principal directions" in said
    assert "random" in said


def test_a_picture_is_pushed(pictured):
    pictured.open("#playground/0", width=1440)
    pictured.until(READY["#playground/1"])
    pictured.until("return document.querySelector('.given img')?.naturalWidth === 8")
    assert [name for name, _ in bars(pictured)] == ["class 0", "class 1", "class 2"]
    assert not pictured.all("#prompt")
    pictured.one(".source button").click()
    pictured.until(READY["#playground/1"])
    assert pictured.messages() == []


def test_a_wish_that_cannot_be_is_answered_in_words(pictured):
    pictured.open("#playground/0", width=1440)
    pictured.until(READY["#playground/1"])
    lora = [b for b in pictured.all(".taken button") if b.text == "Write a LoRA"][0]
    lora.click()
    pictured.until("return document.querySelector('.saying').classList.contains('wrong')")
    assert "weights of linear layers" in text_of(pictured, ".saying")


def test_two_runs_stand_beside_each_other(driver, served, words):
    page = Page(driver, served(words, other=words)[0]).open("#compare", width=390)
    page.until("return document.querySelectorAll('.runs tbody tr').length === 4")
    said = page.js("return document.querySelector('#screen-compare .panel .verdict').textContent")
    assert said.startswith("4 of 4 subnetworks have a partner there that has no nearer one here")
    assert "|cosine| of 1.00" in said
    cells = (
        "return [...document.querySelectorAll('.runs tbody tr')].map(r => r.cells[1].textContent)"
    )
    assert page.js(cells) == ["1.00"] * 4
    assert page.js("return document.documentElement.scrollWidth") <= 390
    page.js(axe())
    assert page.driver.execute_async_script(SERIOUS) == []
    assert page.messages() == []
