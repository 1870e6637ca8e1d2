"""The widget: a page, and which of its subnetworks is open. Imported late, as it needs `anywidget`."""

from __future__ import annotations

import base64
from typing import Any

import anywidget
import traitlets

from subscape._checks import require
from subscape.report.page import asset

EMBEDDED = 2_000_000
"""Characters up to which a page is kept in the notebook's file for where widgets do not run."""


class Subnetworks(anywidget.AnyWidget):
    """A report in a notebook; set `subnetwork` to open another card, or read which one is open."""

    _esm = asset("subscape.notebook", "widget.js")
    page = traitlets.Unicode().tag(sync=True)
    """The report, as HTML."""
    subnetwork = traitlets.Int(None, allow_none=True).tag(sync=True)
    """The open one; None: the list."""
    height = traitlets.Int(680).tag(sync=True)
    """In pixels."""

    def __init__(self, page: str, n: int, subnetwork: int | None, height: int) -> None:
        self._n = n
        super().__init__(page=page, subnetwork=subnetwork, height=height)

    @traitlets.validate("subnetwork")
    def _known(self, proposal: Any) -> int | None:
        index = proposal["value"]
        require(
            index is None or -self._n <= index < self._n,
            "subnetwork",
            f"a subnetwork from 0 to {self._n - 1}, or None for the list",
            repr(index),
        )
        return None if index is None else index % self._n

    def __repr__(self) -> str:
        shown = "the list" if self.subnetwork is None else f"{self.subnetwork} open"
        return f"Subnetworks({self._n}, {shown})"

    def _repr_html_(self) -> str:
        """The same page without Python, for a notebook that is read where no widgets run."""
        if len(self.page) > EMBEDDED:
            return "<p>The page is too large to be kept here: run the cell to see it.</p>"
        place = "subnetworks" if self.subnetwork is None else f"subnetwork-{self.subnetwork}"
        text = base64.b64encode(self.page.encode()).decode()
        return (
            f'<iframe title="Subnetworks" width="100%" height="{self.height}" style="border: 0" '
            f'src="data:text/html;charset=utf-8;base64,{text}#{place}"></iframe>'
        )
