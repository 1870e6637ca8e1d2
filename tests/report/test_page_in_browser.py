"""The page in a real browser: it draws, sorts, finds, steps, and asks the network for nothing."""

import base64
import copy
import logging

import msgspec
import numpy as np
import pytest

from subscape.measures.record import Record
from subscape.report.build import thinned
from subscape.report.page import write_page
from subscape.subnetworks import neighbours
from tests.browser import READY, Page

logger = logging.getLogger(__name__)

EVIL = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def token_data(make_data, put_tokens):
    data = make_data("tokens", n=30)
    all_of, names = data["measures"]["subnetworks"], data["measures"]["names"]["outputs"]
    words = ["Once", EVIL, "", "\n", " \u202e\x00\ud83d", "▁time", " zebra"]
    put_tokens(data, all_of[4]["top_samples"][0], words, 1)
    names |= {900: EVIL, 901: "\u0301", 902: ""}
    all_of[4]["top_outputs"] = {"up": [[900, 1.0], [901, 0.5]], "down": [[902, -1.0], [903, -0.5]]}
    data["title"] = f"A title with {EVIL}"
    sweep = all_of[7]["sweep"]
    sweep["relevant"][8] = None
    sweep["relevant"][15:] = [None, None]
    return data


@pytest.fixture(scope="module")
def subnetworks(token_data):
    return token_data["measures"]["subnetworks"]


@pytest.fixture(scope="module")
def page(driver, token_data, tmp_path_factory):
    return Page(driver, write_page(tmp_path_factory.mktemp("page") / "page.html", token_data))


@pytest.fixture
def make_page(driver, tmp_path):
    return lambda data: Page(driver, write_page(tmp_path / "page.html", data))


def test_the_overview_is_drawn(page):
    page.open()
    text = page.one("#overview").text
    parts = ("0.590", "PCA, 10 components", "self_attn.q_proj.weight", "64 × 64", "another-row")
    assert all(part in text for part in parts)
    assert len(page.all("#overview svg.chart")) == 2
    for canvas in page.all("canvas"):
        assert "30 × 30" in canvas.get_attribute("aria-label")
    colours = page.js(
        "const c = document.querySelector('canvas');"
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "const s = new Set(); for (let i = 0; i < d.length; i += 4) s.add(d.slice(i, i + 3).join());"
        "return s.size"
    )
    assert colours > 50
    assert page.messages() == []
    # Nothing is requested but the file.
    page.js("location.hash = 'subnetwork-4'")
    page.until("return !document.getElementById('card').hidden")
    outside = [url for url in page.requests() if not url.startswith("data:")]
    assert {url.split("#")[0] for url in outside} == {page.address}


def test_the_policy_stops_what_would_ask_or_run(page):
    page.open()
    page.driver.execute_async_script(
        "const done = arguments[0];"
        "const i = new Image(); i.onerror = i.onload = () => done(); i.src = 'http://127.0.0.1:9/x.png'"
    )
    ran = page.js(
        "const s = document.createElement('div');"
        "try { s.innerHTML = '<b>x</b>'; return 'markup'; } catch (e) { return e.name; }"
    )
    assert ran == "TypeError"
    assert any("Content Security Policy" in message for message in page.messages())


def test_malicious_and_odd_tokens_show_as_text(page):
    page.open("#subnetwork-4")
    assert EVIL in [mark.text for mark in page.all("mark")]
    card = page.one("#card").text
    parts = "▲ raised", EVIL, "(empty)", "↵", "‹202E›", "␀", "zebra", "\ufffd", "◌", "output 903"
    assert all(part in card for part in parts)
    assert not page.all("#card img, #overview img, #list img")
    from selenium.common.exceptions import NoAlertPresentException

    with pytest.raises(NoAlertPresentException):
        _ = page.driver.switch_to.alert.text
    assert page.messages() == []
    assert EVIL in page.driver.title


def test_columns_sort_both_ways_and_say_so(page, subnetworks):
    page.open("#subnetworks")
    rates = [s["active_rate"] for s in subnetworks]
    dead = [rate <= 1e-4 for rate in rates]
    assert sum(dead) == 1
    falling = sorted(range(30), key=lambda k: (dead[k], -rates[k], k))
    button = page.one("#list th.c-active_rate button")
    button.click()
    assert page.shown() == falling
    assert page.one("#list th.c-active_rate").get_attribute("aria-sort") == "descending"
    assert page.one("#list th.c-impact").get_attribute("aria-sort") == "none"
    button.click()
    assert page.shown() == sorted(range(30), key=lambda k: (dead[k], rates[k], k))
    assert page.one("#list th.c-active_rate").get_attribute("aria-sort") == "ascending"
    page.one("#list th.c-index button").click()
    assert page.shown() == list(range(30))


def test_search_finds_tokens_outputs_numbers_and_tensors(page, subnetworks):
    page.open()
    search = page.one("#search")
    wanted = {"zebra": [4], "17": [17], "#17": [17], "onerror=ALERT": [4], "nothing-like-it": []}
    for words, found in wanted.items():
        search.clear()
        search.send_keys(words)
        page.until("return !document.getElementById('list').hidden")
        assert page.shown() == found
        status = page.one("#list [role=status]").text
        assert status.startswith(f"{len(found)} of 30" if found else "None of 30")
    search.clear()
    search.send_keys("o_proj")
    held = {s["index"] for s in subnetworks if s["tensors"][3] >= 0.05}
    main = {s["index"] for s in subnetworks if max(s["tensors"]) == s["tensors"][3]}
    assert set(page.shown()) == held | main


def test_a_deep_link_opens_its_card_and_arrows_step_in_the_order_of_the_list(page, subnetworks):
    impacts = [s["impact"] for s in subnetworks]
    order = sorted(range(30), key=lambda k: (subnetworks[k]["active_rate"] <= 1e-4, -impacts[k]))
    at = 5
    page.open(f"#subnetwork-{order[at]}")
    assert page.one("#card h1").text == f"Subnetwork {order[at]}"
    page.press("ARROW_RIGHT")
    page.until(f"return location.hash === '#subnetwork-{order[at + 1]}'")
    page.press("ARROW_LEFT")
    page.press("ARROW_LEFT")
    drawn = "return document.querySelector('#card h1').textContent === 'Subnetwork {}'"
    page.until(drawn.format(order[at - 1]))
    assert page.js("return location.hash") == f"#subnetwork-{order[at - 1]}"
    page.one("button[aria-label^='Next']").click()
    page.until(drawn.format(order[at]))
    assert page.js("return location.hash") == f"#subnetwork-{order[at]}"
    assert page.js("return document.activeElement.id") == "card-title"
    assert page.one("#list tr.open").get_attribute("data-k") == str(order[at])
    page.press("ESCAPE")
    page.until("return document.getElementById('card').hidden")
    assert page.messages() == []
    # The ends of the list stop the steps.
    page.open(f"#subnetwork-{order[0]}")
    before, after = page.all("button.step")
    assert not before.is_enabled()
    assert after.is_enabled()


def test_values_that_are_not_finite_leave_a_gap_and_terms_are_explained(page):
    page.open("#subnetwork-7")
    path = page.one(".sweep svg.chart path.relevant").get_attribute("d")
    assert path.count("M") == 2
    assert "relevant rows at δ = 0, 1.75, 2" in page.one(".gaps").text
    page.one(".numbers summary").click()
    assert page.one(".numbers table").text.count("not finite") == 3
    # Terms explain themselves on focus.
    page.js("document.querySelector('#card .term').focus()")
    tip = page.one("#tip")
    assert tip.is_displayed()
    assert "measured rows" in tip.text
    assert page.js("return document.activeElement.getAttribute('aria-describedby')") == "tip"
    page.press("ESCAPE")
    assert not tip.is_displayed()
    assert page.js("return location.hash") == "#subnetwork-7"


def test_both_ends_of_a_sweep_are_told_apart(make_data, make_page):
    """At +2 own rows hardly move and others do; at −2 they move ten times as far: the mark stands there."""
    data = make_data("tokens", n=3, n_samples=1)
    ends = {"relevant": [1.0, 0.4, 0.0, 0.01, 0.02], "irrelevant": [0.1, 0.05, 0.0, 0.1, 0.2]}
    sweep = {"delta": [-2.0, -1.0, 0.0, 1.0, 2.0], "random": [0.0] * 5} | ends
    data["measures"]["subnetworks"][1]["sweep"] = sweep
    data["measures"]["subnetworks"][2]["sweep"] = sweep | {"irrelevant": [2.0] * 5}
    page = make_page(data).open("#subnetwork-1")
    assert "10.0× at δ = −2.00; 0.100× at +2.00" in page.one("#card .stats").text.replace("\n", " ")
    marks = page.all(".sweep line.mark")
    assert len(marks) == 1
    assert float(marks[0].get_attribute("x1")) < 100
    assert "δ = +2.00 its own rows hardly move" in page.one(".saturated").text
    page.open("#subnetwork-2")  # where others move more at either end nothing is claimed
    assert page.all(".sweep line.mark") == []


def test_dead_ones_are_grey_and_last_and_first_order_only_ones_before_them(make_data, make_page):
    data = make_data("images", n=6, n_samples=2)
    for k, changed in ((1, {"active_rate": 1e-4}), (2, {"validity_radius": 0.0})):
        data["measures"]["subnetworks"][k] |= {"impact": 1e3, "active_rate": 0.3} | changed
    page = make_page(data).open("#subnetworks")
    assert page.shown()[-3:] == [2, 1, 5]
    classes = [page.one(f"tr[data-k='{k}']").get_attribute("class") for k in (0, 1, 2, 5)]
    assert classes == ["", "dead", "", "dead"]
    page.until("return document.querySelector(\"tr[data-k='5'] img\") !== null")
    image = "getComputedStyle(document.querySelector(\"tr[data-k='5'] img\")).filter"
    assert "grayscale(1)" in page.js(f"return {image}")
    assert "first order only" in page.one("tr[data-k='2']").text
    page.open()
    assert page.one(".leaders a").get_attribute("aria-label") not in (
        "subnetwork 1",
        "subnetwork 2",
    )
    dead = "return [...document.querySelectorAll('.stat')].find(s => s.textContent.startsWith('Dead')).textContent"
    assert page.js(dead) == "Dead33.3%"


def test_hits_are_highlighted_and_names_by_rule_are_found(make_data, make_page):
    data = make_data("tokens", n=4, n_samples=1)
    data["rule_names"] = {2: "next token 'zebra'"}
    page = make_page(data).open("#subnetworks")
    page.one("#search").send_keys("zebra")
    page.until("return document.querySelectorAll('#list tbody tr').length === 1")
    assert page.shown() == [2]
    hits = "return [...CSS.highlights.get('hit')].map(r => r.toString())"
    assert page.js(hits) == ["zebra"]
    page.open("#subnetwork-2")
    assert page.one("#card h1").text == "Subnetwork 2 next token 'zebra'"


def test_a_strip_is_the_mean_of_top_samples_and_figures_come_first(make_data, make_page):
    data = make_data("vectors", n=2, n_samples=2)
    for sample, values in zip((0, 1), ([0.0, 1.0, 0.0], [0.0, 0.0, 3.0]), strict=True):
        data["samples"][sample] = {"values": values}
    image = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
    data["figures"] = [{"title": "Circuits.", "caption": "Found.", "image": image}]
    page = make_page(data).open()
    strip = page.one(".leaders a[aria-label='subnetwork 0'] svg title").get_attribute("textContent")
    assert strip == "3 values, largest x2 = 1.50"
    first = "return document.querySelector('#overview .panel h2').textContent"
    assert page.js(first) == "Figures"


def test_top_samples_stand_by_sign(make_data, make_page):
    data = make_data("tokens", n=1, n_samples=4)
    for row, sign in zip(
        data["measures"]["subnetworks"][0]["top_samples"], (1, -1, 1, 1), strict=True
    ):
        row["signed"] = sign * row["impact"]
    page = make_page(data).open("#subnetwork-0")
    heads = [head.text for head in page.all("h3.side-of")]
    assert heads[0] == "3 that +δ takes further from the reference"
    assert heads[1] == "1 that +δ brings nearer to the reference"
    assert [len(part.find_elements("css selector", "li")) for part in page.all("ol.samples")] == [
        3,
        1,
    ]
    # Blue and red are for signs of outputs and coefficients; a subnetwork's own token has a colour of its own.
    own, *signs = page.js(
        "const mixed = (v, n = document.createElement('div')) => {"
        "document.body.append(n);"
        "n.style.background = `color-mix(in srgb, var(${v}) 100%, transparent)`;"
        "return getComputedStyle(n).backgroundColor; };"
        "const marks = [...document.querySelectorAll('#card mark')];"
        "marks.forEach(m => m.style.setProperty('--strength', '100%'));"
        "const tints = new Set(marks.map(m => getComputedStyle(m).backgroundColor));"
        "return [[...tints], mixed('--pos'), mixed('--neg')]"
    )
    assert len(own) == 1
    assert len({*own, *signs}) == 3


def test_in_print_no_row_is_without_its_pictures(make_data, make_page):
    page = make_page(make_data("images", n=300, n_samples=1)).open("#subnetworks")
    page.js("dispatchEvent(new Event('beforeprint'))")
    pictures = page.js(
        "return [...document.querySelectorAll('#list tbody tr')].map(r => r.querySelectorAll('img').length)"
    )
    assert pictures == [1] * 300
    assert not page.all("img[loading=lazy]")


def test_the_map_reads_out_by_keyboard(page, token_data):
    page.open()
    page.js("const s = document.getElementById('map-order'); s.value = 'index'; s.onchange;"
            "s.dispatchEvent(new Event('change')); document.querySelector('canvas').focus()")  # fmt: skip
    page.press("ARROW_DOWN")
    page.press("ARROW_RIGHT")
    packed = np.frombuffer(base64.b64decode(token_data["similarity"]), "<i2")
    value = f"{packed[1] / 32_000:.2f}".replace("-", "−")
    assert page.one(".map .readout").text == f"0 and 1: {value}"


SAMPLES = {"tokens": "#card mark", "images": "#card .tile img", "vectors": "#card .vector svg"}
PLACES = {
    "subnetworks": "return document.querySelectorAll('#list tbody tr').length === 8",
    "subnetwork-3": "return !document.getElementById('card').hidden",
}


@pytest.mark.parametrize("kind", SAMPLES)
def test_every_kind_shows_its_samples_and_never_scrolls_sideways(make_data, make_page, kind):
    page = make_page(make_data(kind, n=8, n_samples=4))
    for width, dark in ((1400, False), (1400, True), (800, False), (360, True)):
        page.open(width=width, dark=dark)
        for place, ready in (("", READY), *PLACES.items()):
            page.js(f"location.hash = '{place}'")
            page.until(ready)
            assert page.js("return document.documentElement.scrollWidth") <= width, place
        assert page.messages() == []
        paper = page.js("return getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") is not dark
    assert len(page.all(SAMPLES[kind])) == 4
    if kind == "images":
        assert page.js("return document.querySelector('.tile img').naturalWidth") == 8


@pytest.fixture
def page_of_words(make_data, make_page, put_tokens):
    """A page whose first sample has these tokens."""

    def make(words, at):
        data = make_data("tokens", n=2, n_samples=1)
        put_tokens(data, data["measures"]["subnetworks"][0]["top_samples"][0], words, at)
        return make_page(data)

    return make


def test_the_preview_shows_a_piece_of_a_word_within_its_word(page_of_words):
    page = page_of_words([" I", " thoug", "h", "t", " so"], 2).open("#subnetworks")
    chip = page.one("#list tr[data-k='0'] .head .tok")
    assert chip.text == "thought"
    assert chip.find_element("css selector", "b").text == "h"


def test_long_contexts_unfold(page_of_words):
    page = page_of_words([f" w{i}" for i in range(200)], 100).open("#subnetwork-0")
    unfold = page.all("button.unfold")
    titles = [button.get_attribute("title") for button in unfold]
    assert titles == ["76 tokens before", "84 tokens after"]
    assert "w99" in page.one(".context").text
    assert "w10 " not in page.one(".context").text
    unfold[0].click()
    assert "w10 " in page.one(".context").text


def test_one_subnetwork_and_nothing_optional(make_data, make_page):
    data = copy.deepcopy(make_data("tokens", n=1, n_samples=1))
    subnetwork = data["measures"]["subnetworks"][0]
    for key in ("top_outputs", "sweep", "selectivity", "validity_radius", "delta"):
        subnetwork[key] = None
    subnetwork.update(top_samples=[], partners=[], impact=0.0, active_rate=0.0)
    data["measures"]["quality"]["baselines"] = []
    data["heldout"] = {}
    page = make_page(data)
    page.open()
    assert "1 subnetwork of" in page.one(".lede").text
    assert "0.610" in page.one("#overview .stats").text  # as measured, where nothing was held out
    assert "these, on measured rows" not in page.one("#overview").text
    page.open("#subnetwork-0")
    assert "had no impact" in page.one("#card").text
    assert page.messages() == []


def test_a_scorecard_is_shown_with_what_was_left_out(make_data, make_page):
    data = make_data("tokens", n=3, n_samples=2)
    evil = f"ours {EVIL}"
    made = {
        **dict(key="loudness", title="Loudness", left_out=None, notes=["A note."]),
        "columns": [
            {"name": "share", "better": "high", "percent": True},
            {"name": "FVU", "better": "low", "percent": False},
        ],
        "lines": [
            {"name": evil, "values": [0.25, None], "ours": True},
            {"name": "chance", "values": [0.1, 0.987654], "ours": False},
        ],
    }
    missing = dict(key="twin", title="Twin", left_out="as asked", notes=[], columns=[], lines=[])
    data["scorecard"] = {"n_rows": 2048, "n_fit": 4096, "sections": [made, missing]}
    page = make_page(data).open()
    rows = [
        [c.text for c in r.find_elements("css selector", "th,td")] for r in page.all(".scores tr")
    ]
    assert rows == [
        ["", "share ↑", "FVU ↓"],
        [evil, "25.0%", "–"],
        ["chance", "10.0%", "0.988"],
    ]
    text = page.one("section[aria-label=Scorecard]").text
    assert "2,048 rows" in text
    assert "Left out: as asked." in text
    assert "A note." in text
    assert page.messages() == []


@pytest.mark.parametrize("logits", [True, False])
def test_what_is_said_of_outputs_follows_the_divergence(make_data, make_page, logits):
    data = make_data("tokens", n=2, n_samples=1)
    data["measures"] |= {"logits": logits, "unit": "bits", "unit_of_changes": "squared output"}
    page = make_page(data).open("#subnetwork-0")
    tips = "return [...document.querySelectorAll('[data-tip]')].map(n => n.dataset.tip).join()"
    assert ("the change of the probability" in page.js(tips)) is logits
    text = page.one("#card").text
    assert "bits per unit δ" in text
    assert "change, squared output" in page.one(".sweep").text


def test_a_thousand_subnetworks(driver, thousand):
    """Rows beyond the window are made when they come near, or when a card opens among them."""
    page = Page(driver, thousand).open()
    paints = page.js("return performance.getEntriesByType('paint').map(p => p.startTime)")
    logger.info("first paint of 1,000 subnetworks after %.0f ms", min(paints))
    page.js("location.hash = 'subnetworks'")
    page.until("return document.querySelectorAll('#list tbody tr').length === 200")
    page.one("#list th.c-index button").click()
    assert page.shown() == list(range(200))
    page.js("scrollTo(0, document.documentElement.scrollHeight)")
    page.until("return document.querySelectorAll('#list tbody tr').length === 400")
    page.js("location.hash = 'subnetwork-999'")
    page.until("return document.querySelector('#card h1').textContent === 'Subnetwork 999'")
    assert page.one("#list tr.open").get_attribute("data-k") == "999"
    assert page.shown() == list(range(1000))
    assert page.messages() == []


@pytest.mark.slow
def test_two_thousand_subnetworks_open_list_and_search_in_two_seconds_of_processor_time(
    driver, make_data, tmp_path
):
    data = make_data("tokens", n=2000, n_samples=20, moving=True)
    data["measures"] = thinned(msgspec.convert(data["measures"], Record))
    page = Page(driver, write_page(tmp_path / "page.html", data))
    size = (tmp_path / "page.html").stat().st_size
    page.command("Performance.enable", {"timeDomain": "threadTicks"})

    def seconds(what):
        before = spent()
        page.js(f"{what}; document.body.offsetHeight")
        return spent() - before

    def spent():
        metrics = page.command("Performance.getMetrics", {})["metrics"]
        return next(m["value"] for m in metrics if m["name"] == "TaskDuration")

    page.open()
    arrived = "dispatchEvent(new HashChangeEvent('hashchange'))"
    times = {"open": spent(), "list": seconds(f"location.hash = 'subnetworks'; {arrived}")}
    search = "const s = document.getElementById('search'); s.value = '{}';"
    for word in ("lily", "zebra"):
        times[word] = seconds(search.format(word) + "s.dispatchEvent(new Event('input'))")
    logger.info("2,000 subnetworks: %.1f MB, %s", size / 1e6, times)
    assert size <= 25_000_000
    assert max(times.values()) <= 2


def test_a_search_lists_what_fits_best_first(make_data, make_page, put_tokens):
    """A name counts more than what a subnetwork moves, that more than one of many contexts; sorting overrides."""
    data = make_data("tokens", n=5, n_samples=2)
    all_of = data["measures"]["subnetworks"]
    for subnetwork, impact in zip(all_of, (5.0, 4.0, 3.0, 2.0, 1.0), strict=True):
        subnetwork |= {"impact": impact, "active_rate": 0.1}
        for row in subnetwork["top_samples"]:
            put_tokens(data, row, [" a", " b"], 0)
    put_tokens(data, all_of[0]["top_samples"][0], [" a", " quagga"], 0)  # somewhere in a context
    for row in all_of[1]["top_samples"]:
        put_tokens(data, row, [" quagga", " b"], 0)  # the token of both top samples
    put_tokens(data, all_of[2]["top_samples"][1], [" quagga", " b"], 0)  # of one of them
    data["rule_names"] = {4: "token 'quagga'"}
    page = make_page(data).open("#subnetworks")
    page.one("#search").send_keys("quagga")
    assert page.shown() == [4, 1, 2, 0]
    assert page.one("#list th.c-impact").get_attribute("aria-sort") == "none"
    page.js("location.hash = 'subnetwork-1'")
    page.until("return document.querySelector('#card h1').textContent === 'Subnetwork 1'")
    assert page.one(".where").text == "2 of 4 by fit, searched"
    page.js("location.hash = 'subnetworks'")
    page.until("return document.getElementById('card').hidden")
    page.one("#list th.c-impact button").click()
    assert page.shown() == [0, 1, 2, 4]


def test_the_list_keeps_room_for_what_a_subnetwork_is_for(page):
    for width, least in ((1400, 400), (768, 450), (390, 180)):
        page.open("#subnetworks", width=width)
        cell = page.js("return document.querySelector('#list td.c-preview').clientWidth")
        assert cell >= least, width
        inside = page.js("const r = document.querySelector('#list .rows');"
                         "return r.scrollWidth <= r.clientWidth")  # fmt: skip
        assert inside, width


def test_of_very_many_the_nearest_are_listed_in_place_of_maps(make_data, make_page, monkeypatch):
    monkeypatch.setattr(neighbours, "WHOLE", 7)
    monkeypatch.setattr(neighbours, "KEPT", 6)
    data = make_data("tokens", n=8, n_samples=4)
    page = make_page(data).open()
    assert not page.all("canvas, #map-order")
    near, dead = data["similarity"], 5
    assert (len(near["others"]), len(near["others"][3])) == (8, 6)
    i, j, value = max(
        ((i, j, v) for i in range(8) for j, v in zip(near["others"][i], near["values"][i], strict=True)),
        key=lambda pair: pair[2],
    )  # fmt: skip
    first = page.one(".pairs").text.split(" · ")[0].replace("−", "-")
    assert first in {f"Strongest: {a}–{b} {value:.2f}" for a, b in ((i, j), (j, i))}
    # Every pair once.
    pairs = [" ".join(t.split()[:-1]) for t in page.one(".pairs").text[11:].split(" · ")]
    assert len({frozenset(p.split("–")) for p in pairs}) == len(pairs) == 6
    page.open("#subnetwork-3")
    shown = [e.text.split()[0] for e in page.all("[aria-label='Most similar'] li")]
    assert shown == [str(j) for j in near["others"][3]]
    assert set(data["coactivation"]["values"][dead]) == {None}
    page.open(f"#subnetwork-{dead}")
    assert not page.all("[aria-label='Active together']")


def test_maps_have_axes_in_the_order_shown(page, subnetworks):
    page.open()
    texts = ".map(ticks => [...ticks.children].map(s => s.textContent))"
    labels = f"return [...document.querySelectorAll('.map .ticks.{{}}')]{texts}"
    order = "const s = document.getElementById('map-order'); s.value = '{}'; s.dispatchEvent(new Event('change'))"
    page.js(order.format("index"))
    numbers = [str(k) for k in range(0, 30, 5)]
    assert page.js(labels.format("down")) == page.js(labels.format("across")) == [numbers] * 2
    page.js(order.format("impact"))
    falling = sorted(range(30), key=lambda k: -subnetworks[k]["impact"])
    assert page.js(labels.format("across"))[0] == [str(k) for k in falling[::5]]
    assert page.one(".map .axis-name").text == "subnetwork, by impact; every 5th is labelled"
