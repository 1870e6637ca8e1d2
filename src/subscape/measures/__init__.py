"""Measures: one idea a file, each from tensors or a decomposition to a small result.

A function with the name of its file is imported from there: `from subscape.measures.impact import impact`.
"""

from subscape.measures.config import MeasureConfig
from subscape.measures.control import random_like
from subscape.measures.impact import Impact, TopRows
from subscape.measures.oracle import Oracle, pca_fvu
from subscape.measures.output_effects import top_outputs
from subscape.measures.record import Measures, Selectivity, SubnetworkMeasures, TopOutputs
from subscape.measures.recovery import Recovery
from subscape.measures.rows import RowSet, outputs_at
from subscape.measures.selectivity import (
    Sweep,
    delta_of_change,
    grid,
    interaction,
    sweep,
    validity_radius,
)
from subscape.measures.two_sets import auroc

__all__ = [
    "Impact",
    "MeasureConfig",
    "Measures",
    "Oracle",
    "Recovery",
    "RowSet",
    "Selectivity",
    "SubnetworkMeasures",
    "Sweep",
    "TopOutputs",
    "TopRows",
    "auroc",
    "delta_of_change",
    "grid",
    "interaction",
    "outputs_at",
    "pca_fvu",
    "random_like",
    "sweep",
    "top_outputs",
    "validity_radius",
]
