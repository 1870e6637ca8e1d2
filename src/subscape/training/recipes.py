"""Recipes: the choices of geometry that go together, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from subscape._checks import nearest, require
from subscape.rows import RowKind
from subscape.training.config import Start, TrainingConfig

RecipeName = Literal["whitened", "published"]

RECIPES: dict[str, dict[str, Any]] = {
    # One gradient a row, in units of how much gradients vary. Tokens all count the same, which is the best in
    # every column that counts of docs/geometry.md; of samples the faint ones count less.
    "whitened": {"reference": "mean", "row_weight": "unit", "metric": "kronecker"},
    # arXiv 2504.00194: plain gradients of the divergence to another row, drawn anew every time.
    "published": {"reference": "another-row", "row_weight": "norm", "metric": "euclidean"},
}
OF_SAMPLES: dict[str, dict[str, Any]] = {
    # Samples in which nothing happens are noise once they are as long as the others: toys with twice too many
    # subnetworks then come out in 12 of 20 seeds instead of 20.
    "whitened": {"row_weight": 0.5},
}


def recipe_of(recipe: str, rows: RowKind) -> dict[str, Any]:
    """A recipe's reference, row weight and metric, for rows of a kind."""
    names = list(RECIPES)
    require(recipe in RECIPES, "recipe", f"one of {names}", repr(recipe), nearest(recipe, names))
    return RECIPES[recipe] | (OF_SAMPLES.get(recipe, {}) if rows == "sample" else {})


def start_of(recipe: str, rows: RowKind) -> Start:
    """Where a recipe's subnetworks start.

    Samples are few and of kinds, and from random directions kinds are not found (docs/geometry.md); rows of
    text are many, and there both come to the same.
    """
    return "clusters" if recipe == "whitened" and rows == "sample" else "random"


def with_start(config: TrainingConfig, recipe: str, rows: RowKind) -> TrainingConfig:
    """With where subnetworks start, and for how long all of them are then active.

    Groups start at random: the directions of one would be clusters that have nothing to do with each other.
    """
    start = start_of(recipe, rows) if config.group_size == 1 else "random"
    config = replace(config, start=config.start or start)
    return replace(config, dense_warmup=config.warmup)


def with_recipe(recipe: str, rows: RowKind, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """What was chosen, and for what was left at None the recipe's choice."""
    own = recipe_of(recipe, rows)
    return {name: own[name] if value is None else value for name, value in chosen.items()}
