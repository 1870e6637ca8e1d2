"""From measures to the data of the page."""

from dataclasses import replace

import pytest
import torch

from subscape import Decomposition, Measures
from subscape.lowrank import initial_stack, make_layout
from subscape.measures.record import identity_of
from subscape.report.build import page_data, write_report
from subscape.report.page import render_page
from subscape.report.page_data import checked

SHAPES = {"weight": (3, 2), "bias": (3,)}


def decomposition(**changes) -> Decomposition:
    layout = make_layout(SHAPES, 1)
    stack = initial_stack(layout, (2,), torch.Generator().manual_seed(0), torch.empty(0))
    target = {"model": "torch.nn.Linear", "tensors": [], "sha256": "abc"}
    made = Decomposition(stack, stack, 0.1, target, {"rank": {"*": 1}, "steps": 7, "engine": "x"})
    return replace(made, **changes)


def measures(samples: dict, tokens: dict | None = None, positions=(None, None)) -> Measures:
    def row(sample: int, position, impact: float):
        found = {"sample": sample, "impact": impact, "signed": -impact, "up": [[0, 2.0]]}
        return found | {"down": [[1, -1.0]]} | ({} if position is None else {"position": position})

    def entry(k: int, impact: float) -> dict:
        return {
            "index": k,
            "impact": impact,
            "impact_signed": -impact,
            "impact_normalised": None,
            "active_rate": 0.5 * k,
            "delta": None if k else 0.5,
            "validity_radius": None if k else 0.25,
            "top_samples": [row(7, positions[0], impact), row(4, positions[1], impact / 2)],
            "partners": [[1 - k, 0.125]],
        }

    first, second = entry(0, 3.0), entry(1, 1.0)
    first |= {
        "top_outputs": {"up": [[0, 2.0]], "down": [[2, -1.0]]},
        "sweep": {
            "delta": [-0.5, 0.0, 0.5],
            "relevant": [1.0, 0.0, None],
            "irrelevant": [None, None, None],
            "random": [0.5, 0.0, 0.5],
        },
        "selectivity": {"delta": 0.5, "ratio": None, "auroc": 1.0, "auroc_random": 0.5},
    }
    record = {
        "format": "subscape-measures/1",
        "decomposition": identity_of(decomposition()),
        "unit": "nats",
        "n_rows": 30,
        "n_references": 2,
        "spread": 1.25,
        "settings": {"change": 0.1, "rows": "every-token" if tokens else "sample"},
        "quality": {"fvu": 0.5, "l0": 1.5, "n_rows": 30, "baselines": [{"name": "b", "fvu": 0.9}]},
        "coactivation": [[1.0, None], [None, 1.0]],
        "subnetworks": [first, second],
        "names": {"tokens": tokens or {}, "outputs": {"0": "<i>zero</i>", "1": "one"}},
    }
    return Measures(record, {"index": torch.tensor([4, 7])} | samples)


VECTORS = {"inputs": torch.tensor([[1.0, 2.00004], [3.0, 4.0]])}


def test_what_the_page_is_told():
    made = decomposition(metrics={"fvu": 0.25, "l0": 1.0, "dead": 0.0, "heldout_rows": 9})
    data = page_data(made, measures(VECTORS), title="T")
    assert data["title"] == "T"
    assert data["kind"] == "vectors"
    assert data["model"] == {"name": "Linear"}
    assert data["target"]["n_parameters"] == 9
    assert [t["shape"] for t in data["target"]["tensors"]] == [[3, 2], [3]]
    assert data["settings"] == {"rank": "{'*': 1}", "steps": 7}
    assert data["quality"] == {
        "fvu": 0.25,
        "l0": 1.0,
        "dead": 0.0,
        "heldout_rows": 9,
        "fvu_measured": 0.5,
        "l0_measured": 1.5,
        "baselines": [{"name": "b", "fvu": 0.9}],
    }
    assert (data["measured"]["n_rows"], data["measured"]["n_references"]) == (30, 2)
    assert "nats" in data["measured"]["unit"]
    assert data["coactivation"] == [[1.0, None], [None, 1.0]]
    first, second = data["subnetworks"]
    assert (first["impact_share"], second["impact_share"]) == (0.75, 0.25)
    norms = made[0].norms()
    assert first["tensors"] == [pytest.approx(norms[n] ** 2, abs=1e-4) for n in SHAPES]
    assert sum(first["tensors"]) == pytest.approx(1, abs=1e-3)
    assert first["top_outputs"] == {"up": [["<i>zero</i>", 2.0]], "down": [["output 2", -1.0]]}
    assert first["top_samples"][0]["values"] == [3, 4]
    assert first["top_samples"][1]["values"] == [1, 2]
    assert first["top_samples"][0]["down"] == [["one", -1.0]]
    assert not {"sweep", "selectivity", "top_outputs"} & second.keys()
    checked(data)
    assert "<i>zero" not in render_page(data)


def test_a_decomposition_without_metrics_has_those_measured():
    quality = page_data(decomposition(), measures(VECTORS), title="T")["quality"]
    assert quality["fvu"] == 0.5
    assert quality["l0"] == 1.5
    assert quality["heldout_rows"] == 30
    assert quality["dead"] == 0.5  # one is active in no row


def test_tokens_in_their_context():
    ids = torch.tensor([[5, 6, 8], [8, 5, 6]])
    made = measures({"input_ids": ids}, {"5": " five", "6": "<s>"}, positions=(0, 2))
    data = page_data(decomposition(), made, title="T")
    assert data["kind"] == "tokens"
    first, second = data["subnetworks"][0]["top_samples"]
    assert first["tokens"] == ["8", " five", "<s>"]  # a token without a name is its number
    assert (first["at"], first["next"], first["position"]) == (0, " five", 0)
    assert second["tokens"] == [" five", "<s>", "8"]
    assert (second["at"], "next" in second) == (2, False)
    assert any("position of a window" in note for note in data["measured"]["notes"])
    checked(data)


def test_an_image_is_in_the_page_once():
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    made = measures({"inputs": images, "labels": torch.tensor([3, 9])})
    data = page_data(decomposition(), made, title="T")
    assert data["kind"] == "images"
    assert len(data["images"]) == 2
    for entry in data["subnetworks"]:
        assert [r["image"] for r in entry["top_samples"]] == [0, 1]
        assert [r["label"] for r in entry["top_samples"]] == ["9", "3"]
    checked(data)


def test_long_vectors_are_not_shown():
    made = measures({"inputs": torch.zeros(2, 65)})
    data = page_data(decomposition(), made, title="T")
    assert "values" not in data["subnetworks"][0]["top_samples"][0]
    checked(data)


def test_pictures(tmp_path):
    file = tmp_path / "p.png"
    file.write_bytes(b"\x89PNG\r\n")
    data = page_data(decomposition(), measures(VECTORS), title="T", figures=[("A", "b", file)])
    assert data["figures"] == [
        {"title": "A", "caption": "b", "image": "data:image/png;base64,iVBORw0K"}
    ]
    checked(data)
    with pytest.raises(ValueError, match="figures: expected a picture that exists"):
        page_data(
            decomposition(), measures(VECTORS), title="T", figures=[("A", "b", tmp_path / "q.png")]
        )


def test_measures_of_another_decomposition():
    other = decomposition(target={"model": "m", "sha256": "other"})
    with pytest.raises(ValueError, match="measures: expected those of this decomposition of 2"):
        page_data(other, measures(VECTORS), title="T")
    # An earlier run of the same model, of as many subnetworks.
    again = replace(decomposition(), decoder=decomposition().decoder.select(torch.tensor([1, 0])))
    with pytest.raises(ValueError, match="Measure this one: subscape measure RUN --overwrite"):
        page_data(again, measures(VECTORS), title="T")


def test_it_is_written_to_a_file(tmp_path):
    path = write_report(tmp_path / "r.html", decomposition(), measures(VECTORS), title="<T>")
    assert "<title>&lt;T&gt;</title>" in path.read_text(encoding="utf-8")
    with pytest.raises(FileExistsError):
        write_report(path, decomposition(), measures(VECTORS), title="T")
    write_report(path, decomposition(), measures(VECTORS), title="T", overwrite=True)
    assert "<title>T</title>" in path.read_text(encoding="utf-8")
