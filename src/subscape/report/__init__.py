"""Figures of decompositions, and the report page."""

from subscape.report.build import page_data, write_report
from subscape.report.page import render_page, write_page
from subscape.report.toy_figure import draw_toy_decomposition

__all__ = ["draw_toy_decomposition", "page_data", "render_page", "write_page", "write_report"]
