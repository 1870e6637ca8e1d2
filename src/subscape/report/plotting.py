"""Matplotlib, only when a picture is asked for, and without its global state."""

from __future__ import annotations

from typing import Any

from subscape._checks import optional

INK = "#333333"


def new_figure(size: tuple[float, float]) -> Any:
    """An empty matplotlib figure, width and height in inches, which belongs to no window."""
    matplotlib = optional("matplotlib.figure", "for figures", "'subscape[plot]'")
    return matplotlib.Figure(figsize=size, layout="constrained")


def colour_map(name: str) -> Any:
    """A matplotlib colour map: from 0 to 1 to a colour."""
    import matplotlib

    return matplotlib.colormaps[name]
