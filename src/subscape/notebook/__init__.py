"""Subnetworks in a notebook: the report's page in a cell."""

from subscape.notebook.view import show

__all__ = ["show"]
