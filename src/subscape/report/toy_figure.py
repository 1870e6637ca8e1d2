"""One picture of a decomposed two-layer toy: every subnetwork as a network, and its match to the truth.

Edges are weights of W_in and W_out, output nodes are biases; blue is positive, red negative, pale is
nearly nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from subscape._io import save_figure
from subscape._shapes import Float
from subscape.report.plotting import INK, colour_map, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


COLOURS = "RdBu"
LayerPart = tuple[Float[Tensor, "..."], Float[Tensor, "..."] | None]
"""Weights [to, from] and biases [to] of one layer, sizes of its own; None for a layer without biases."""


def draw_toy_decomposition(
    path: str | Path,
    subnetworks: Mapping[str, Float[Tensor, "subnetwork ..."]],
    cosines: Float[Tensor, "truth subnetwork"],
    active_rate: Sequence[float],
    history: Sequence[tuple[int, float]],
    title: str,
) -> None:
    """Draw subnetworks, cosines with the true ones, and the training curve (step, FVU of the batch) to a file.

    Subnetworks are dense: `W_in` [subnetwork, hidden, feature], `W_out` [subnetwork, output, hidden] and `bias`
    [subnetwork, output].
    """
    n = len(active_rate)
    figure = new_figure((2.3 * n, 5.6))
    figure.suptitle(title, color=INK)
    grid = figure.add_gridspec(2, 2 * n, height_ratios=[1.15, 1])
    for k in range(n):
        axes = figure.add_subplot(grid[0, 2 * k : 2 * k + 2])
        w_in, w_out, bias = (subnetworks[name][k].detach() for name in ("W_in", "W_out", "bias"))
        draw_network(axes, [(w_in, None), (w_out, bias)])
        axes.set_title(f"subnetwork {k}\nactive in {active_rate[k]:.1%} of rows", size=9, color=INK)
    left, right = figure.add_subplot(grid[1, :n]), figure.add_subplot(grid[1, n:])
    _cosines(left, cosines)
    right.plot([s for s, _ in history], [f for _, f in history], color="#2166ac", linewidth=1)
    right.set(xlabel="step", ylabel="FVU of a batch", ylim=(0, None))
    right.set_title("reconstruction error while training", size=9, color=INK)
    for side in ("top", "right"):
        right.spines[side].set_visible(False)
    save_figure(figure, path)


def _cosines(axes: Axes, cosines: Tensor) -> None:
    axes.imshow(cosines.numpy(), vmin=0, vmax=1, cmap="Greys")
    for i in range(cosines.shape[0]):
        for j in range(cosines.shape[1]):
            value = float(cosines[i, j])
            shade = "white" if value > 0.5 else "#888888"
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", size=8, color=shade)
    axes.set_xticks(range(cosines.shape[1]))
    axes.set_yticks(range(cosines.shape[0]))
    axes.set(xlabel="subnetwork found", ylabel="true subnetwork")
    axes.set_title("|cosine| with the true subnetworks", size=9, color=INK)


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
