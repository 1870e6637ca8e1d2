"""Where row gradients come from: engines, one value type, and a source of batches."""

from subscape.gradients.engines import jacobian, loop_gradients, row_outputs, vmap_gradients
from subscape.gradients.row_gradients import DenseRowGradients, RowGradients
from subscape.gradients.source import Batch, GradientSource, generator_of

__all__ = [
    "Batch",
    "DenseRowGradients",
    "GradientSource",
    "RowGradients",
    "generator_of",
    "jacobian",
    "loop_gradients",
    "row_outputs",
    "vmap_gradients",
]
