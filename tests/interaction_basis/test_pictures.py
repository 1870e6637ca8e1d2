import json
import re
import sys

import pytest
import torch

from subscape.interaction_basis import InteractionGraph, find_modules
from subscape.interaction_basis.basis import raw_basis
from subscape.interaction_basis.causal import Effect
from subscape.interaction_basis.modules import Module, Modules
from subscape.interaction_basis.page import graph_page
from subscape.interaction_basis.pictures import (
    colour_of,
    draw_curves,
    draw_edges_required,
    draw_graph,
)

NASTY = '</script><script>alert("x")</script>&{{data}}'


@pytest.fixture
def graph():
    edges = torch.block_diag(torch.full((2, 2), 100.0), torch.full((2, 2), 50.0)).double()
    return InteractionGraph(tuple(raw_basis(f"n{k}", 4) for k in range(3)), (edges, edges))


@pytest.fixture
def modules(graph):
    return find_modules(graph, [1.0, 1.0], last_layer=True)


def page_data(text):
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])


def test_the_picture_of_the_graph(graph, modules, tmp_path):
    pytest.importorskip("matplotlib")
    axes = draw_graph(graph, modules, [1.0, 1.0], labels={(0, 0): "first"})
    assert len(axes.lines) == 16
    assert [t.get_text() for t in axes.get_xticklabels()] == ["n0", "n1", "n2"]
    assert {line.get_color() for line in axes.lines} == {colour_of(0), colour_of(1)}
    axes.figure.savefig(tmp_path / "graph.png")
    few = draw_graph(graph, modules, [1.0], most=2)
    assert len(few.lines) == 4
    with pytest.raises(ValueError, match="thresholds"):
        draw_graph(graph, modules, [])


def test_bars_and_curves(graph, monkeypatch):
    pytest.importorskip("matplotlib")
    axes = draw_edges_required({"lib": [3, 4], "pca": [5, 6]}, graph.names)
    assert [p.get_height() for p in axes.patches] == [3, 4, 5, 6]
    curves = {"lib": [(0, 0.1), (4, 0.9)], "pca": [(0, 0.1), (4, 0.8)]}
    axes = draw_curves(curves, "accuracy", "edges")
    assert [line.get_ydata().tolist() for line in axes.lines] == [[0.1, 0.9], [0.1, 0.8]]
    # Without matplotlib the extra is named.
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"subscape\[plot\]"):
        draw_edges_required({"lib": [1, 2]}, graph.names)


def test_the_page_holds_the_graph_and_needs_nothing_else(graph, modules):
    text = graph_page(graph, modules, [1.0, 1.0], title="A graph")
    assert "<title>A graph</title>" in text
    data = page_data(text)
    assert [layer["name"] for layer in data["layers"]] == ["n0", "n1", "n2"]
    assert len(data["edges"]) == 16
    # log10(100) above the threshold 1.
    assert data["edges"][0] == [0, 0, 0, 2.0, 100.0, True]
    # Weights 16 = 8 log10(100) and 13.59 = 8 log10(50), none between: Q = 1 - .541² - .459².
    assert data["modules"].startswith("2 modules of 6, 6, Q = 0.497, z = ")
    # The only address is the name of the SVG name space, which nobody fetches.
    assert set(re.findall(r"https?://[^\"'\s)]+", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<(link|img|iframe)\b|src=|@import|url\(", text)


def test_names_and_labels_are_escaped(modules, graph):
    bases = (raw_basis(NASTY, 4), *graph.bases[1:])
    nasty = InteractionGraph(bases, graph.edges)
    text = graph_page(nasty, modules, [1.0, 1.0], title=NASTY, labels={(1, 0): NASTY + "\u2028"})
    assert text.count("<script") == graph_page(graph, modules, [1.0, 1.0]).count("<script")
    data = page_data(text)
    assert data["layers"][0]["name"] == NASTY
    assert data["layers"][1]["directions"][0]["label"] == NASTY + "\u2028"


def test_every_section_has_its_own_threshold_and_few_directions_may_be_shown(graph, modules):
    edges = page_data(graph_page(graph, modules, [10.0, 60.0]))["edges"]
    # The weakest required edge is one of those required.
    assert [e[0] for e in page_data(graph_page(graph, modules, [50.0, 100.0]))["edges"]] == [
        0
    ] * 8 + [1] * 4
    assert page_data(graph_page(graph, modules, [50.0, 100.0]))["edges"][-1][3] == 0
    # All 8 of the first section, of the second the 4 of strength 100.
    assert [e[0] for e in edges] == [0] * 8 + [1] * 4
    assert edges[0][3] == 1.0
    assert edges[-1][3] == 0.2218
    # Few directions may be shown.
    data = page_data(graph_page(graph, modules, [1.0, 1.0], most=2))
    assert [len(layer["directions"]) for layer in data["layers"]] == [2, 2, 2]
    assert all(come_from < 2 and to < 2 for _, come_from, to, *_ in data["edges"])


def test_many_modules_are_not_all_counted_out():
    pairs = tuple(Module(((0, n), (1, n)), 1.0) for n in range(20))
    assert Modules(pairs, 0.9, 1.0, 0.0).described == (
        "20 modules of 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, …, Q = 0.900"
    )
    assert Modules((), 0.0, 1.0, 0.0).described == "no modules"


ABLATION = {
    "score": "accuracy",
    "base": 0.975,
    "tolerance": 0.01,
    "names": ["n0", "n1", "n2"],
    **{m: {"sections": [{"n_edges": n}, {"n_edges": 8}]} for m, n in (("lib", 8), ("random", 11))},
}


def test_the_page_says_score_tolerance_and_edges_required(graph, modules):
    data = page_data(graph_page(graph, modules, [1.0, 1.0], ablation=ABLATION))
    assert "accuracy, 0.975" in data["verdict"] and "within 0.01" in data["verdict"]
    assert data["required"] == [
        ["edges required", "LIB", "random rotation"],
        ["n0 → n1", "8", "11"],
        ["n1 → n2", "8", "8"],
        ["all sections", "16", "19"],
    ]
    assert data["left_out"] == "All 16 required edges are drawn."
    assert data["chance"].startswith("2 modules of 6, 6, Q = 0.497, z = ")
    assert "100% of 500 searches" in data["chance"]
    cut = page_data(graph_page(graph, modules, [1.0, 1.0], most=2))
    # Of every block of four edges twice over, those of directions 0 and 1.
    assert cut["left_out"].startswith(
        "8 of 16 required edges are drawn; the others are of directions"
    )


def test_modules_are_listed_with_what_they_do(graph, modules):
    effect = Effect(1, 0, 2, 0.5, 0.75, 0.25, (0.1, 0.2, 0.3), (0.4,))
    page = graph_page(graph, modules, [1.0, 1.0], ablation=ABLATION, effects=[effect])
    head, first, second = page_data(page)["list"]
    assert head[3] == "accuracy without it (random)"
    assert first == [
        {"text": "1", "colour": colour_of(0)},
        "2 in n0, 2 in n1, 2 in n2",
        "1.00",
        "",
        "",
    ]
    assert second[3:] == ["n0: 0.500 (0.200)", "n0: 0.750 (0.400; 0.250)"]


def test_a_page_without_a_required_edge_is_not_empty(graph):
    none = Modules((), 0.0, 1.0, 0.0)
    data = page_data(graph_page(graph, none, [1000.0, 1000.0]))
    assert [len(layer["directions"]) for layer in data["layers"]] == [4, 4, 4]
    assert len(data["edges"]) == 16 and not any(edge[-1] for edge in data["edges"])
    assert data["left_out"].startswith("No edge is required")
    assert data["chance"].startswith("No modules")
    # One edge that suffices is drawn.
    graph.edges[0][0, 0] = graph.edges[1][0, 0] = 200.0
    one = page_data(graph_page(graph, none, [200.0, 200.0]))
    assert one["edges"] == [[0, 0, 0, 0.0, 200.0, True], [1, 0, 0, 0.0, 200.0, True]]
