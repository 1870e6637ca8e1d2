"""Measures: one idea a file, each from tensors or a decomposition to a small result."""

from subscape.measures.control import random_like
from subscape.measures.impact import Impact, TopRows, impact
from subscape.measures.measure import MeasureConfig, measure
from subscape.measures.oracle import Oracle, oracle, pca_fvu
from subscape.measures.output_effects import output_effects, top_outputs
from subscape.measures.record import Measures
from subscape.measures.recovery import Recovery, recovery
from subscape.measures.rows import RowSet, outputs_at
from subscape.measures.selectivity import (
    Selectivity,
    Sweep,
    auroc,
    delta_of_change,
    grid,
    interaction,
    selectivity,
    sweep,
    validity_radius,
)

__all__ = [
    "Impact",
    "MeasureConfig",
    "Measures",
    "Oracle",
    "Recovery",
    "RowSet",
    "Selectivity",
    "Sweep",
    "TopRows",
    "auroc",
    "delta_of_change",
    "grid",
    "impact",
    "interaction",
    "measure",
    "oracle",
    "outputs_at",
    "output_effects",
    "pca_fvu",
    "random_like",
    "recovery",
    "selectivity",
    "sweep",
    "top_outputs",
    "validity_radius",
]
