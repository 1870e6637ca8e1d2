"""From measures to the data of the page."""

import base64
import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch

from subscape import Decomposition, MeasureConfig, Measures
from subscape.lowrank import initial_stack, make_layout
from subscape.measures import Selectivity, SubnetworkMeasures, TopOutputs
from subscape.measures.record import (
    Baseline,
    Names,
    OutputEffect,
    Partner,
    Quality,
    TopSample,
    identity_of,
)
from subscape.report.build import MANY, packed, page_data, thinned, write_report
from subscape.report.page import render_page
from subscape.scorecard import Scorecard, ScoreConfig
from subscape.scorecard.record import Section
from subscape.subnetworks.dictionary import Dictionary
from subscape.subnetworks.neighbours import Neighbours
from subscape.subnetworks.selection import BatchTopK

SHAPES = {"weight": (3, 2), "bias": (3,)}
SETTINGS = {"rank": {"*": 1}, "steps": 7, "engine": "x", "l0": None}


def decomposition(order=(0, 1), **changes):
    layout = make_layout(SHAPES, 1)
    stack = initial_stack(layout, (2,), torch.Generator().manual_seed(0), torch.empty(0))
    stack = stack.select(torch.tensor(order))
    dictionary = Dictionary(stack, stack, BatchTopK(1.0, torch.Size([2]), stack.weights))
    target = {"model": "torch.nn.Linear", "tensors": [], "sha256": "abc"}
    return replace(Decomposition(dictionary, target, SETTINGS), **changes)


def measures(samples, tokens=None, positions=(None, None)):
    pairs = TopOutputs((OutputEffect(0, 2.0),), (OutputEffect(1, -1.0),))

    def entry(k, impact):
        return SubnetworkMeasures(
            index=k,
            impact=impact,
            impact_signed=-impact,
            impact_normalised=None,
            active_rate=0.5 * k,
            tensors=(0.75, 0.25),
            top_samples=(
                TopSample(7, positions[0], impact, -impact, pairs),
                TopSample(4, positions[1], impact / 2, 0.0, pairs),
            ),
            top_outputs=pairs,
            selectivity=Selectivity(0.5, None, 1.0, 0.5),
            partners=(Partner(1 - k, 0.125),),
        )

    said = dict(divergence="kl", unit="nats", unit_of_changes="nats", logits=True)
    sizes = dict(n_rows=30, n_references=2, spread=1.25)
    return Measures(
        **dict(format="subscape-measures/2", subscape_version="0", target="abc"),
        decomposition=identity_of(decomposition()),
        settings=MeasureConfig(),
        **said,
        reference="another-row",
        rows="token" if tokens else "sample",
        **sizes,
        quality=Quality(0.5, 1.5, 30, (Baseline("b", 1.0, 0.9),)),
        names=Names({0: "<i>zero</i>", 1: "one"}, tokens or {}),
        subnetworks=(entry(0, 3.0), entry(1, 1.0)),
        coactivation=Neighbours.of([torch.tensor([[1.0, math.nan], [math.nan, 1.0]])]),
        samples={"index": torch.tensor([4, 7])} | samples,
    )


VECTORS = {"inputs": torch.tensor([[1.0, 2.0000004], [3.0, 4.0]])}


def unpacked(text):
    return np.frombuffer(base64.b64decode(text), "<i2").tolist()


def test_what_the_page_is_told():
    metrics = {"fvu": 0.25, "l0": 1.0, "dead": 0.0, "heldout_rows": 9, "seconds": 7.0}
    made = decomposition(metrics=metrics | {"fvu_row_by_row": math.nan})
    found = measures(VECTORS)
    data = page_data(made, found, title="T")
    assert (data["title"], data["model"], data["n_parameters"]) == ("T", "Linear", 9)
    assert [t["shape"] for t in data["tensors"]] == [[3, 2], [3]]
    assert data["settings"] == {"rank": "{'*': 1}", "steps": 7}
    assert data["heldout"] == {"fvu": 0.25, "l0": 1.0, "dead": 0.0, "heldout_rows": 9}
    assert data["samples"] == {4: {"values": [1, 2]}, 7: {"values": [3, 4]}}
    assert data["figures"] == []
    # The record itself, as it is in the file.
    assert msgspec.to_builtins(data)["measures"] == msgspec.to_builtins(found.record)
    cosine = made.similarity()[0, 1].item()
    assert unpacked(data["similarity"]) == [32000, round(32000 * cosine), 32000]
    assert unpacked(data["coactivation"]) == [32000, -32768, 32000]
    assert "<i>zero" not in render_page(data)


def test_maps_are_packed_as_the_page_unpacks_them():
    """The upper triangle row after row: entry (a, b) is number a n − a (a − 1)/2 + b − a."""
    values = torch.tensor([[1.0, 0.5, -1.001], [0.5, 1.001, 0.25], [-1.001, 0.25, math.nan]])
    assert unpacked(packed(values)) == [32000, 16000, -32000, 32000, 8000, -32768]


def test_above_a_thousand_a_map_has_a_byte_a_pair():
    found = np.frombuffer(base64.b64decode(packed(torch.eye(MANY + 1).fill_diagonal_(1))), "<i1")
    assert len(found) == (MANY + 1) * (MANY + 2) // 2
    assert found[:2].tolist() == [125, 0]
    assert (
        np.frombuffer(base64.b64decode(packed(torch.full((MANY + 1,) * 2, math.nan))), "<i1").max()
        == -128
    )


def test_above_a_thousand_single_rows_keep_three_outputs_each_way():
    record = measures(VECTORS).record
    pairs = tuple(OutputEffect(i, 5.0 - i) for i in range(5))
    row = replace(record.subnetworks[0].top_samples[0], outputs=TopOutputs(pairs, pairs))
    entry = replace(record.subnetworks[0], top_samples=(row,), partners=())
    assert thinned(replace(record, subnetworks=(entry,))).subnetworks == (entry,)
    many = tuple(replace(entry, index=k) for k in range(MANY + 1))
    few = thinned(replace(record, subnetworks=many)).subnetworks[-1].top_samples[0].outputs
    assert few == TopOutputs(pairs[:3], pairs[:3])


def test_tokens_are_given_by_number():
    ids = torch.tensor([[5, 6, 8], [8, 5, 6]])
    made = measures({"input_ids": ids}, {5: " five", 6: "<s>"}, positions=(0, 2))
    data = page_data(decomposition(), made, title="T")
    assert data["samples"] == {4: {"tokens": [5, 6, 8]}, 7: {"tokens": [8, 5, 6]}}
    assert any("position of a window" in note for note in data["notes"])
    # Without names they are numbers like any other.
    plain = page_data(decomposition(), measures({"input_ids": ids}), title="T")
    assert plain["samples"][4] == {"values": [5, 6, 8]}


def test_images_labels_and_long_vectors():
    images = torch.rand(2, 1, 8, 8)
    made = measures({"inputs": images, "labels": torch.tensor([3, 9])})
    samples = page_data(decomposition(), made, title="T")["samples"]
    assert [samples[i]["label"] for i in (4, 7)] == ["3", "9"]
    assert all(s["image"].startswith("data:image/png;base64,") for s in samples.values())
    made = measures({"inputs": torch.zeros(2, 65)})
    assert page_data(decomposition(), made, title="T")["samples"] == {4: {}, 7: {}}


def test_pictures(tmp_path):
    file = tmp_path / "p.png"
    file.write_bytes(b"\x89PNG\r\n")
    figures_of = lambda path: page_data(  # noqa: E731
        decomposition(), measures(VECTORS), title="T", figures=[("A", "b", path)]
    )["figures"]
    image = "data:image/png;base64,iVBORw0K"
    assert figures_of(file) == [{"title": "A", "caption": "b", "image": image}]
    with pytest.raises(ValueError, match="figures: expected a picture that exists"):
        figures_of(tmp_path / "q.png")


def test_measures_of_another_decomposition():
    other = decomposition(target={"model": "m", "sha256": "other"})
    with pytest.raises(ValueError, match="measures: expected those of this decomposition of 2"):
        page_data(other, measures(VECTORS), title="T")
    # An earlier run of the same model, of as many subnetworks.
    with pytest.raises(ValueError, match="Measure again: subscape measure RUN --overwrite"):
        page_data(decomposition(order=(1, 0)), measures(VECTORS), title="T")


def test_a_scorecard_goes_with_its_decomposition():
    made = decomposition()
    said = dict(rows="sample", divergence="kl", unit="nats", n_rows=3, n_fit=4)
    card = Scorecard(
        **dict(format="subscape-scorecard/1", subscape_version="0", inputs="", against={}),
        decomposition=identity_of(made),
        settings=ScoreConfig(),
        n_subnetworks=2,
        sections=(Section("twin", "Twin", left_out="as asked"),),
        **said,
    )
    data = page_data(made, measures(VECTORS), title="T", scorecard=card)
    assert msgspec.to_builtins(data)["scorecard"]["sections"][0]["left_out"] == "as asked"
    assert "as asked" in render_page(data)
    assert page_data(made, measures(VECTORS), title="T")["scorecard"] is None
    other = replace(card, decomposition="another")
    with pytest.raises(ValueError, match="scorecard: expected that of this decomposition"):
        page_data(made, measures(VECTORS), title="T", scorecard=other)


def test_it_is_written_to_a_file(tmp_path):
    path = write_report(tmp_path / "r.html", decomposition(), measures(VECTORS), title="<T>")
    assert "<title>&lt;T&gt;</title>" in path.read_text(encoding="utf-8")
    with pytest.raises(FileExistsError):
        write_report(path, decomposition(), measures(VECTORS), title="T", overwrite=False)
    write_report(path, decomposition(), measures(VECTORS), title="T")
    assert "<title>T</title>" in path.read_text(encoding="utf-8")
