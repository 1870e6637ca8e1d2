"""`show`: the report's page of a decomposition in a notebook, at one card or at the list."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from subscape._checks import optional, require
from subscape.measures.record import Measures
from subscape.report.build import page_data
from subscape.report.labels import Labels
from subscape.report.moving import moving
from subscape.report.page import render_page
from subscape.subnetworks.decomposition import Decomposition
from subscape.targets import Target

if TYPE_CHECKING:
    from subscape.notebook.widget import Subnetworks

MEASURE = (
    "Measure first, measures = subscape.measure(found, model, data), then found.show(3, measures)."
)


def show(
    decomposition: Decomposition,
    measures: Measures | str | Path | None,
    subnetwork: int | None = None,
    *,
    model: nn.Module | Target | None = None,
    labels: Labels | None = None,
    output_names: Callable[[int], str] | None = None,
    title: str | None = None,
    height: int = 680,
) -> Subnetworks:
    """Show a measured decomposition in a notebook: the report's page, in a cell. Needs the extra `notebook`.

    Args:
        decomposition: the subnetworks.
        measures: their measures, or the folder they were saved to.
        subnetwork: whose card to open; by default the list of all.
        model: the model, or its target: a few rows are pushed now, so that sliders in the page can show it.
        labels: names and notes that people gave; see `report.labels`.
        output_names: name of an output, of those that only the sliders show.
        title: headline; by default the model's class.
        height: of the cell, in pixels.

    Returns:
        A widget; its `subnetwork` is the open one, to read and to set.

    Raises:
        ImportError: if anywidget is not installed.
        ValueError: if there are no measures, or those of another decomposition.
    """
    needs = ("to show subnetworks in a notebook", "'subscape[notebook]'")
    optional("anywidget", *needs)
    require(measures is not None, "measures", "what subscape.measure gives", "none", MEASURE)
    assert measures is not None
    known = measures if isinstance(measures, Measures) else Measures.load(measures)
    headline = title or decomposition.target["model"].split(".")[-1]
    data = page_data(decomposition, known, title=headline, labels=labels)
    if model is not None:
        data["moving"] = moving(decomposition, known, model, output_names=output_names)
    widget = optional("subscape.notebook.widget", *needs)
    return widget.Subnetworks(render_page(data), len(decomposition), subnetwork, height)
