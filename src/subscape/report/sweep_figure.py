"""Pictures of a sweep over δ, and of a grid over two."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from subscape._io import save_figure
from subscape.report.plotting import new_figure

CURVES = {
    "relevant": ("top samples", "#2166ac", "-"),
    "drawn_at_random": ("rows drawn at random", "#999999", "-"),
    "random_direction": ("random direction, top samples", "#b2182b", "--"),
}


def draw_sweep(path: str | Path, found: Mapping[str, Any]) -> None:
    """Draw mean changes of outputs over δ: `delta`, the curves by name (null where not finite) and `unit`."""
    figure = new_figure((5.2, 3.4))
    axes = figure.add_subplot()
    for key, (label, colour, style) in CURVES.items():
        values = [math.nan if v is None else v for v in found[key]]
        axes.plot(found["delta"], values, style, color=colour, marker=".", label=label)
    axes.set(xlabel=f"δ along subnetwork {found['subnetwork']}")
    axes.set_ylabel(f"mean change of outputs ({found['unit']})")
    axes.legend(frameon=False, fontsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    save_figure(figure, path)


def draw_grid(path: str | Path, found: Mapping[str, Any]) -> None:
    """Draw mean changes of outputs over two δ, `change` (null where not finite) over `delta` and `delta`."""
    figure = new_figure((4.8, 3.8))
    axes = figure.add_subplot()
    values = [[math.nan if v is None else v for v in line] for line in found["change"]]
    # Automatic, as square cells leave no room for the label of the axis.
    image = axes.imshow(values, cmap="viridis", origin="lower", aspect="auto")
    for axis, subnetwork in ((axes.xaxis, found["beside"]), (axes.yaxis, found["subnetwork"])):
        axis.set_ticks(range(len(found["delta"])), [f"{d:g}" for d in found["delta"]])
        axis.set_label_text(f"δ along subnetwork {subnetwork}")
    figure.colorbar(image, label=f"mean change of outputs ({found['unit']})")
    save_figure(figure, path)
