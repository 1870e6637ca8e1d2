"""Recipes: the choices of geometry that go together, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from subscape._checks import nearest, require

RecipeName = Literal["whitened", "published"]

RECIPES: dict[str, dict[str, Any]] = {
    # One gradient a row, all of one length, in units of how much gradients vary: the best in every column that
    # counts of docs/geometry.md.
    "whitened": {"reference": "mean", "row_weight": "unit", "metric": "kronecker"},
    # arXiv 2504.00194: plain gradients of the divergence to another row, drawn anew every time.
    "published": {"reference": "another-row", "row_weight": "norm", "metric": "euclidean"},
}


def with_recipe(recipe: str, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """What was chosen, and for what was left at None the recipe's choice."""
    names = list(RECIPES)
    require(recipe in RECIPES, "recipe", f"one of {names}", repr(recipe), nearest(recipe, names))
    return {k: RECIPES[recipe][k] if v is None else v for k, v in chosen.items()}
