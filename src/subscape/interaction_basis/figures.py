"""All pictures of a run folder: graphs, pages, curves and bars."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from subscape._io import read_json, save_figure, write_text
from subscape.interaction_basis.graph import InteractionGraph
from subscape.interaction_basis.modules import Modules
from subscape.interaction_basis.page import graph_page
from subscape.interaction_basis.pictures import draw_curves, draw_edges_required, draw_graph, panels
from subscape.interaction_basis.stages import (
    BASELINES,
    METHODS,
    load_effects,
    load_graphs,
    load_labels,
    load_modules,
    made_by,
    own,
    thresholds,
)

FULL_LABELS = 12
"""Directions per layer up to which a picture of the graph shows labels; the page shows them all."""
WIDEST = 40.0
"""Inches."""


def report_stage(folder: Path, *, title: str | None = None) -> list[Path]:
    """Draw everything that a run has, all other stages done; the files written."""
    with own(folder):
        return _drawn(folder, title)


def _drawn(folder: Path, title: str | None) -> list[Path]:
    graphs, modules = load_graphs(folder), load_modules(folder)
    ablation = read_json(made_by("ablate", folder / "ablation.json"))
    last_layer = read_json(folder / "modules.json")["last_layer"]
    written = [_required(folder, ablation)]
    for kind, what in (("edge_curves", "edges"), ("node_curves", "directions")):
        if ablation["lib"][kind]:
            written.append(_curves(folder, ablation, kind, what))
    for method in METHODS:
        graph, found, labels = graphs[method], modules[method], load_labels(folder, method)
        drawn = len(graph.edges) - (0 if last_layer else 1)
        limits = thresholds(ablation, method)[: max(1, drawn)]
        written.append(_graph(folder, method, graph, found, limits, labels))
        name = f"{title or folder.resolve().name}, {method.upper()}"
        page = folder / f"graph-{method}.html"
        shown = folder / f"responses-{method}.json"
        across = load_bridge(folder, found) if method == "lib" else None
        text = graph_page(
            graph,
            found,
            limits,
            title=name,
            labels=labels,
            ablation=ablation,
            effects=load_effects(folder, method),
            responses=read_json(shown) if shown.exists() else None,
            bridge=across,
        )
        write_text(page, text)
        written.append(page)
    return written


def load_bridge(folder: Path, modules: Modules) -> dict[str, Any] | None:
    """Through which modules subnetworks act, if that was measured of these modules."""
    path = folder / "bridge.json"
    kept = read_json(path) if path.exists() else {}
    same = kept.get("modules") == [list(map(list, m.members)) for m in modules.modules]
    return kept if same else None


def _required(folder: Path, ablation: dict[str, Any]) -> Path:
    names = ablation["names"]
    figure, (axes,) = panels(1, width=max(5.0, 0.6 * len(names)))
    counts = {
        m: [s["n_edges"] for s in ablation[m]["sections"]] for m in BASELINES if m in ablation
    }
    draw_edges_required(counts, names, axes=axes)
    axes.set_title("{score} within {tolerance:g} of {base:.5g}".format_map(ablation))
    return _saved(figure, folder / "edges-required.png")


def _curves(folder: Path, ablation: dict[str, Any], kind: str, what: str) -> Path:
    names = ablation["names"]
    n = len(ablation["lib"][kind])
    figure, all_axes = panels(n)
    for layer, axes in enumerate(all_axes):
        curves = {method: ablation[method][kind][layer] for method in METHODS}
        draw_curves(curves, ablation["score"], what, axes=axes)
        edges = f"{names[layer]} → {names[layer + 1]}"
        axes.set_title(edges if what == "edges" else names[layer], fontsize=9)
    return _saved(figure, folder / f"{what}-kept.png")


def _graph(
    folder: Path,
    method: str,
    graph: InteractionGraph,
    modules: Modules,
    limits: list[float],
    labels: dict[tuple[int, int], str],
) -> Path:
    width = min(WIDEST, max(6.0, 2.5 * (len(limits) + 1)))
    figure, (axes,) = panels(1, width=width, height=7.0)
    few = {node: text for node, text in labels.items() if node[1] < FULL_LABELS}
    draw_graph(graph, modules, limits, labels=few, axes=axes)
    axes.set_title(f"{method.upper()}: {modules.described}")
    return _saved(figure, folder / f"graph-{method}.png")


def _saved(figure: Any, path: Path) -> Path:
    return save_figure(figure, path)
