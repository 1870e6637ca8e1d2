"""One picture of a decomposed two-layer toy: every subnetwork as a network, and its match to the truth.

Edges are weights of W_in and W_out, output nodes are biases; blue is positive, red negative, pale is
nearly nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from subscape._shapes import Float
from subscape.report.network_figure import draw_network
from subscape.report.plotting import INK, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_toy_decomposition(
    path: str | Path,
    subnetworks: Mapping[str, Float[Tensor, "subnetwork ..."]],
    cosines: Float[Tensor, "truth subnetwork"],
    active_rate: Sequence[float],
    history: Sequence[tuple[int, float]],
    title: str,
) -> None:
    """Draw subnetworks, cosines with the true ones, and the training curve to a file.

    Args:
        path: where to; the ending says the kind of file.
        subnetworks: dense `W_in` [subnetwork, hidden, feature], `W_out` [subnetwork, output, hidden] and
            `bias` [subnetwork, output].
        cosines: |cos| of every true subnetwork with every found one.
        active_rate: share of rows in which each is active.
        history: step and FVU of the batch at that step.
        title: headline.
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
