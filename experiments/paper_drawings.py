"""The figures of arXiv 2504.00194 from measures: each draws a record of plain numbers to a file.

The numbers of a figure are written beside it as JSON under the same name (`write_figure`), so that every
point can be looked up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from subscape._io import save_figure, write_json
from subscape.report.plotting import INK, colour_map, new_figure
from subscape.report.toy_figure import draw_network

SMALL = 8
"""Font size of axes."""


def write_figure(
    folder: str | Path,
    name: str,
    record: Mapping[str, Any],
    draw: Callable[[Mapping[str, Any]], Any],
) -> Path:
    """Write `name.json` with the numbers and `name.png` with their picture."""
    path = Path(folder) / f"{name}.png"
    write_json(path.with_suffix(".json"), dict(record))
    save_figure(draw(record), path)
    return path


def networks(record: Mapping[str, Any]) -> Any:
    """Every subnetwork as a network.

    `subnetworks`, each with `layers` of `weight` [to, from] and `bias` or null, and `name`.
    """
    found = record["subnetworks"]
    columns = min(len(found), 5)
    lines = math.ceil(len(found) / columns)
    height = 0.7 * len(found[0]["layers"]) + 1.2
    figure = new_figure((2.3 * columns, height * lines))
    for k, entry in enumerate(found):
        axes = figure.add_subplot(lines, columns, k + 1)
        draw_network(axes, [_layer(part) for part in entry["layers"]])
        axes.set_title(entry["name"], size=9, color=INK)
    figure.suptitle("weights as edges, biases as nodes; blue +, red −", size=9, color=INK)
    return figure


def _layer(part: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor | None]:
    bias = part.get("bias")
    return torch.tensor(part["weight"]), None if bias is None else torch.tensor(bias)


def hidden_directions(record: Mapping[str, Any]) -> Any:
    """Where each subnetwork and each feature points in a hidden layer of two units.

    `features` [feature, 2], the columns of W_in, and `subnetworks` [subnetwork, 2], the largest
    column of each one's part in W_in; `feature` of every subnetwork.
    """
    figure = new_figure((4, 4))
    axes = figure.add_subplot()
    for i, (x, y) in enumerate(record["features"]):
        scale = math.hypot(x, y) or 1.0
        axes.plot([0, x / scale], [0, y / scale], color="#bbbbbb", linewidth=6, zorder=1)
        axes.text(1.1 * x / scale, 1.1 * y / scale, f"x{i}", ha="center", va="center", size=SMALL)
    for x, y in record["subnetworks"]:
        scale = math.hypot(x, y) or 1.0
        for sign in (1, -1):  # the sign of a subnetwork is free
            style = {"color": "#2166ac", "linewidth": 1.5, "zorder": 2}
            style |= {} if sign > 0 else {"linestyle": ":"}
            axes.plot([0, sign * x / scale], [0, sign * y / scale], **style)
    axes.set(xlim=(-1.25, 1.25), ylim=(-1.25, 1.25), aspect="equal")
    axes.set_title(
        "columns of W_in (grey), encoders' (blue;\ndotted the negative)", size=9, color=INK
    )
    axes.set_axis_off()
    return figure


def coefficients(record: Mapping[str, Any]) -> Any:
    """Coefficients of A as read from the subnetworks against the true ones.

    `true` and `found`, lists of the same length, and `pearson` and `r_squared` of these.
    """
    figure = new_figure((3.8, 3.8))
    axes = figure.add_subplot()
    low, high = min(record["true"]), max(record["true"])
    axes.plot([low, high], [low, high], color="#bbbbbb", linewidth=1)
    axes.scatter(record["true"], record["found"], s=12, color="#2166ac")
    axes.set(xlabel="entry of A", ylabel="read from the subnetworks, one factor each")
    axes.set_title(
        f"Pearson r {record['pearson']:.3f}, r² {record['r_squared']:.3f}", size=9, color=INK
    )
    return figure


def interventions(record: Mapping[str, Any]) -> Any:
    """Outputs over inputs at several δ: a row of panels per subnetwork, a column per input.

    `inputs` [point], `delta` [δ], `tensors` (patterns), `subnetworks` (their names) and
    `outputs` [subnetwork][feature][δ][point], output i when input i alone is active.
    """
    names, deltas = record["subnetworks"], record["delta"]
    n_features = len(record["outputs"][0])
    figure = new_figure((1.7 * n_features, 1.5 * len(names)))
    grid = figure.subplots(len(names), n_features, sharex=True, sharey=True, squeeze=False)
    largest = max(abs(d) for d in deltas) or 1.0
    colours = colour_map("RdBu")
    for k, name in enumerate(names):
        for i in range(n_features):
            axes = grid[k][i]
            for delta, values in zip(deltas, record["outputs"][k][i], strict=True):
                colour = "#333333" if delta == 0 else colours(0.5 + 0.5 * delta / largest)
                shown = [math.nan if v is None else v for v in values]
                axes.plot(record["inputs"], shown, color=colour, linewidth=1.2)
            if k == 0:
                axes.set_title(f"input {i} alone", size=SMALL, color=INK)
            if i == 0:
                axes.set_ylabel(name, size=SMALL)
            axes.tick_params(labelsize=6)
    figure.suptitle(
        f"output i over input i, moved in {' '.join(record['tensors'])}\n"
        f"δ from {min(deltas):g} (red) to {max(deltas):g} (blue)",
        size=9,
        color=INK,
    )
    return figure


def losses(record: Mapping[str, Any]) -> Any:
    """FVU against a setting, a line per toy, with the spread over seeds.

    `setting`, `values`, and `curves` by name: FVU [value][seed].
    """
    figure = new_figure((4.6, 3.4))
    axes = figure.add_subplot()
    for name, lines in record["curves"].items():
        means = [_mean(values) for values in lines]
        axes.plot(record["values"], means, marker="o", markersize=4, label=name)
        axes.fill_between(
            record["values"], [min(v) for v in lines], [max(v) for v in lines], alpha=0.15
        )
    axes.set(xlabel=record["setting"], ylabel="FVU on rows not trained on", ylim=(0, None))
    axes.legend(frameon=False, fontsize=SMALL)
    axes.set_title("mean over seeds; the band holds all of them", size=9, color=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
