"""Figures of decompositions, and the report page."""

from subscape.report.build import write_report
from subscape.report.toy_figure import draw_toy_decomposition

__all__ = ["draw_toy_decomposition", "write_report"]
