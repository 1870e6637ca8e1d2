"""A direction in the parameters of a small fully connected network, drawn as that network.

Edges are weights and nodes biases: blue is positive, red negative, pale is nearly nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from subscape._shapes import Float
from subscape.report.plotting import INK, colour_map

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = "RdBu"
LayerPart = tuple[Float[Tensor, "..."], Float[Tensor, "..."] | None]
"""Weights [to, from] and biases [to] of one layer, sizes of its own; None for a layer without biases."""


def draw_network(axes: Axes, layers: Sequence[LayerPart], *, labels: str = "x") -> None:
    """Draw one direction, layers from the input on, with a letter and a number under the input nodes."""
    scale = max(float(t.abs().max()) for part in layers for t in part if t is not None) or 1.0
    colours = colour_map(COLOURS)
    sizes = [layers[0][0].shape[1], *[matrix.shape[0] for matrix, _ in layers]]
    rows = [_places(n, float(height)) for height, n in enumerate(sizes)]
    edges = [
        (rows[layer][j], rows[layer + 1][i], float(matrix[i, j]) / scale)
        for layer, (matrix, _) in enumerate(layers)
        for i in range(matrix.shape[0])
        for j in range(matrix.shape[1])
    ]
    # Strong edges last, on top of the pale ones.
    for (x0, y0), (x1, y1), value in sorted(edges, key=lambda e: abs(e[2])):
        width = 0.4 + 3.2 * abs(value)
        axes.plot([x0, x1], [y0, y1], color=colours(0.5 + value / 2), linewidth=width, zorder=1)
    for level, places in enumerate(rows):
        bias = layers[level - 1][1] if level else None
        fill = [colours(0.5 + float(b) / scale / 2) for b in bias] if bias is not None else "white"
        xs, ys = zip(*places, strict=True)
        axes.scatter(xs, ys, s=90, c=fill, edgecolors=INK, linewidths=0.8, zorder=2)
    for i, (x, y) in enumerate(rows[0]):
        axes.text(x, y - 0.18, f"{labels}{i}", ha="center", va="top", size=7)
    axes.set(xlim=(-1.2, 1.2), ylim=(-0.45, len(layers) + 0.2))
    axes.set_axis_off()


def _places(n: int, height: float) -> list[tuple[float, float]]:
    if n == 1:
        return [(0.0, height)]
    half = 1.0 if n > 2 else 0.4
    return [(-half + 2 * half * i / (n - 1), height) for i in range(n)]
