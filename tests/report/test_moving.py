"""The sliders of a shared report: what they show is what the model does, and the page asks nobody."""

import json

import pytest
import torch

from subscape.report.build import page_data
from subscape.report.moving import moving
from subscape.report.page import write_page
from tests.browser import Page


@pytest.fixture(scope="module")
def small():
    from subscape import decompose, measure

    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 5), torch.nn.Linear(5, 3))
    data = torch.rand(60, 1, 8, 8)
    settings = dict(steps=20, batch_size=16, n_heldout_rows=20, rank=1, n_subnetworks=4)
    found = decompose(model, data, divergence="kl", progress=False, **settings)
    few = dict(n_rows=60, n_references=2, n_top=4, n_others=12, n_deltas=2, progress=False)
    measures = measure(found, model, data, output_names=lambda i: f"class {i}", **few)
    return model, data, found, measures


def test_the_values_are_the_models_own(small):
    model, data, found, measures = small
    moved = moving(found, measures, model)
    entry = next(e for e in measures if e.sweep)
    rows = moved["rows"][entry.index]
    assert [row["own"] for row in rows] == [True, True, False]
    deltas = sorted(entry.sweep.delta)
    for row in rows:
        sample = measures[row["subnetwork"]].top_samples[row["place"]].sample
        for d, delta in enumerate(deltas):
            with torch.no_grad():
                edited = found.edited(model, {entry.index: delta})
                p = edited(data[sample : sample + 1]).softmax(-1)[0]
            for i, line in zip(row["outputs"], row["values"], strict=True):
                assert line[d] == pytest.approx(float(p[i]), rel=2e-3)
    assert moved["names"] == {i: f"class {i}" for i in range(3)}


def test_the_other_row_is_of_one_seldom_active_together(small):
    *_, found, measures = small
    moved = moving(found, measures, small[0])
    for k, rows in moved["rows"].items():
        other = rows[-1]["subnetwork"]
        together = measures.coactivation.row(k).abs().nan_to_num(torch.inf)
        candidates = [j for j in range(4) if j != k and measures[j].top_samples]
        assert together[other] == min(together[j] for j in candidates)


def test_a_slider_of_the_file_moves_bars_without_a_request(small, driver, tmp_path):
    model, _, found, measures = small
    data = page_data(found, measures, title="x") | {"moving": moving(found, measures, model)}
    k = next(iter(data["moving"]["rows"]))
    page = Page(driver, write_page(tmp_path / "page.html", data)).open(f"#subnetwork-{k}")
    own = data["moving"]["rows"][k][0]
    deltas = sorted(measures[k].sweep.delta)
    for press, at in (("HOME", -1), ("END", 1)):
        page.js("document.querySelector('.push .delta').focus()")
        page.press(press)
        end = deltas[-1] if at * measures[k].side > 0 else deltas[0]
        page.until(
            f"return document.querySelector('.push .note').textContent.includes('{at}×'.replace('-', '−'))"
        )
        shown = page.js(
            "return [...document.querySelector('.pushed').querySelectorAll('.outcomes tbody tr')]"
            ".map(r => r.cells[2].textContent)"
        )
        expected = [line[deltas.index(end)] for line in own["values"]]
        assert [float(v.rstrip("%")) for v in shown] == pytest.approx(
            [100 * p for p in expected], abs=0.06
        )
    assert page.messages() == []
    assert {u.split("#")[0] for u in page.requests() if not u.startswith("data:")} == {page.address}


class Embedding(torch.nn.Module):
    """The mean of its tokens' vectors, through one layer."""

    def __init__(self):
        super().__init__()
        self.words, self.layer = torch.nn.Embedding(50, 16), torch.nn.Linear(16, 16)

    def forward(self, input_ids):
        return self.layer(self.words(input_ids).mean(1))


def test_a_change_of_an_embedding_is_named_by_the_texts_it_points_to(driver, tmp_path):
    """The texts' cosines with the change, worked out one by one."""
    from subscape import decompose, measure

    torch.manual_seed(0)
    model, data = Embedding(), {"input_ids": torch.randint(50, (40, 6))}
    training = dict(steps=20, batch_size=16, n_heldout_rows=20, rank=1, n_subnetworks=3)
    found = decompose(model, data, parameters="layer", progress=False, **training)
    few = dict(n_rows=40, n_references=2, n_top=4, n_others=12, n_deltas=2, progress=False)
    measures = measure(found, model, data, token_names=lambda i: f" w{i}", **few)
    moved = moving(found, measures, model)
    entry = next(e for e in measures if e.sweep)
    with torch.no_grad():
        outputs = model(**data)[measures.samples["index"]]
        ends = [found.edited(model, {entry.index: d(entry.sweep.delta)}) for d in (max, min)]
        own = torch.tensor([row.sample for row in entry.top_samples[:2]])
        high, low = (edited(data["input_ids"][own]).mean(0) for edited in ends)
    cosines = torch.cosine_similarity(outputs - outputs.mean(0), (high - low)[None])
    order = measures.samples["index"][cosines.argsort(descending=True)].tolist()
    assert moved["near"][entry.index] == {"toward": order[:3], "away": order[:-4:-1]}
    page = write_page(
        tmp_path / "page.html", page_data(found, measures, title="x") | {"moving": moved}
    )
    card = Page(driver, page).open(f"#subnetwork-{entry.index}")
    words = "".join(f" w{i}" for i in data["input_ids"][order[0]].tolist()).strip()
    assert card.one(".texts li").text == words
    assert "output 1" not in card.one("body").text
    first = data["input_ids"][entry.top_samples[0].sample].tolist()
    assert card.one(".samples .context").text == "".join(f" w{i}" for i in first).strip()
    assert not card.all("mark")


def test_a_page_without_them_has_no_slider_and_a_value_that_is_not_finite_says_so(
    small, driver, tmp_path
):
    model, _, found, measures = small
    data = page_data(found, measures, title="x")
    page = Page(driver, write_page(tmp_path / "still.html", data)).open("#subnetwork-0")
    assert not page.all(".push")
    moved = json.loads(json.dumps(moving(found, measures, model)))
    k = next(iter(moved["rows"]))
    line = moved["rows"][k][0]["values"][0]
    line[0] = line[-1] = None
    page = Page(driver, write_page(tmp_path / "page.html", data | {"moving": moved}))
    page.open(f"#subnetwork-{k}")
    assert "not finite" in page.one(".pushed").text
