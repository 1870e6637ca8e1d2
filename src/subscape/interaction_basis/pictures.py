"""Pictures of an interaction graph with matplotlib: the layered graph, curves and bars.

Every function draws into axes that it is given or makes, and returns them. The page that can be explored
is made by `page.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from subscape._checks import optional, require
from subscape.interaction_basis.graph import InteractionGraph
from subscape.interaction_basis.modules import Modules, log_weights

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6a3d9a", "#8c564b")
"""Of the modules, told apart by the colour-blind too (after Okabe and Ito); then from the first again."""
SIDE = 0.6
"""Room for labels beside the first and last layer, in distances of layers."""
ALONE = "#9a9a9a"
"""Of directions without a module, and of edges between modules."""
FEWEST = 4
"""Directions of a layer that are drawn even without edges."""
MANY = 6
"""Names on an axis above which they are turned."""
METHODS = {
    "lib": ("LIB", COLOURS[0]),
    "pca": ("PCA", COLOURS[1]),
    "random": ("random rotation", COLOURS[2]),
}
Curve = Sequence[Sequence[int | float]]


def colour_of(module: int | None) -> str:
    """The colour of a module; None is no module."""
    return ALONE if module is None else COLOURS[module % len(COLOURS)]


def draw_graph(
    graph: InteractionGraph,
    modules: Modules,
    thresholds: Sequence[float],
    *,
    labels: Mapping[tuple[int, int], str] | None = None,
    most: int = 30,
    axes: Axes | None = None,
) -> Axes:
    """Node layers from left to right, directions from top to bottom, edges on a logarithmic scale.

    Edges below the `thresholds`, one per section that is drawn, are left out, and so are directions of a layer
    beyond the `most` important ones. Labels, by (layer, direction), are shown up to their first " + ".
    """
    axes = _axes(axes)
    member = modules.of()
    shown = shown_directions(graph, thresholds, most)
    for layer, (edges, threshold) in enumerate(zip(graph.edges, thresholds, strict=False)):
        weights = log_weights(edges, threshold)
        weights = weights[: shown[layer + 1], : shown[layer]]
        # Where all that is required weighs 0, it is drawn as the weakest.
        largest = max(float(weights.max()), 1e-9) if weights.numel() else 1.0
        needed = edges[: shown[layer + 1], : shown[layer]] >= threshold
        for to, come_from in needed.nonzero().tolist():
            one, other = member.get((layer, come_from)), member.get((layer + 1, to))
            colour = colour_of(one if one == other else None)
            strength = float(weights[to, come_from]) / largest
            axes.plot(
                [layer, layer + 1],
                [-come_from, -to],
                color=colour,
                alpha=0.15 + 0.6 * strength,
                linewidth=0.4 + 2 * strength,
                zorder=1,
            )
    for layer, count in enumerate(shown):
        colours = [colour_of(member.get((layer, direction))) for direction in range(count)]
        axes.scatter([layer] * count, [-d for d in range(count)], s=30, c=colours, zorder=2)
        for direction in range(count):
            text = (labels or {}).get((layer, direction))
            if text:
                # Before the first layer there is room on the left.
                axes.annotate(
                    text.partition(" + ")[0],
                    (layer, -direction),
                    xytext=(-7 if layer == 0 else 7, 0),
                    textcoords="offset points",
                    ha="right" if layer == 0 else "left",
                    va="center",
                    fontsize=6,
                    bbox={"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.75},
                )
    names = graph.names[: len(shown)]
    axes.set_xticks(range(len(shown)), names, rotation=90 if len(shown) > MANY else 0)
    axes.set_yticks([])
    axes.set_ylabel("directions, the most important on top")
    axes.set_xlim(-SIDE, len(shown) - 1 + SIDE)
    return axes


def shown_directions(graph: InteractionGraph, thresholds: Sequence[float], most: int) -> list[int]:
    """Directions per layer drawn: some at least, up to the last that has a required edge, `most` at most."""
    require(len(thresholds) >= 1, "thresholds", "at least one", "none")
    layers = graph.bases[: min(len(thresholds), len(graph.edges)) + 1]
    shown = [min(FEWEST, most, basis.rank) for basis in layers]
    for layer, (edges, threshold) in enumerate(zip(graph.edges, thresholds, strict=False)):
        linked = edges[:most, :most] >= threshold
        for at, axis in ((layer, 0), (layer + 1, 1)):
            present = linked.any(axis).nonzero()
            if len(present):
                shown[at] = max(shown[at], int(present.max()) + 1)
    return shown


def draw_edges_required(
    counts: Mapping[str, Sequence[int] | Sequence[float]],
    names: Sequence[str],
    *,
    axes: Axes | None = None,
) -> Axes:
    """Bars of the edges that each section needs, by method (`lib`, `pca`)."""
    axes = _axes(axes)
    width = 0.8 / len(counts)
    for number, (method, values) in enumerate(counts.items()):
        label, colour = METHODS.get(method, (method, ALONE))
        places = [k + (number - (len(counts) - 1) / 2) * width for k in range(len(values))]
        bars = axes.bar(places, list(values), width, label=label, color=colour)
        axes.bar_label(bars, fontsize=7)
    sections = [f"{a} → {b}" for a, b in zip(names[:-1], names[1:], strict=True)]
    turned = 90 if len(sections) > MANY else 0
    axes.set_xticks(range(len(sections)), sections, fontsize=7, rotation=turned)
    axes.margins(x=0.02, y=0.1)
    axes.set_ylabel("edges required")
    axes.legend(frameon=False)
    return axes


def draw_curves(
    curves: Mapping[str, Curve], score: str, what: str, *, axes: Axes | None = None
) -> Axes:
    """Scores over the number of directions or edges kept: pairs (number kept, score) by method."""
    axes = _axes(axes)
    for method, curve in curves.items():
        label, colour = METHODS.get(method, (method, ALONE))
        kept, scores = zip(*curve, strict=True)
        axes.plot(kept, scores, marker=".", label=label, color=colour)
    # Linear up to 1, as the first number is 0.
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"{what} kept")
    axes.set_ylabel(score)
    axes.legend(frameon=False)
    return axes


def panels(
    n: int, *, width: float = 4.0, height: float = 3.2, columns: int = 4
) -> tuple[Figure, list[Axes]]:
    """A figure of n panels of that size in inches, in rows of `columns`, and their axes."""
    matplotlib = optional("matplotlib.figure", "for pictures", "'subscape[plot]'")
    across = min(n, columns)
    down = -(-n // across)
    figure = matplotlib.Figure(figsize=(across * width, down * height), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False).flatten().tolist()
    for unused in grid[n:]:
        unused.remove()
    return figure, grid[:n]


def _axes(axes: Axes | None) -> Axes:
    return panels(1, width=7.0, height=5.0)[1][0] if axes is None else axes
