"""Figures of decompositions."""

from subscape.report.toy_figure import draw_toy_decomposition

__all__ = ["draw_toy_decomposition"]
