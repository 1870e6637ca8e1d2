"""Where row gradients come from: engines, their choice, one value type, and a source of them."""

from subscape.gradients.engines import (
    jacobian,
    loop_gradients,
    loop_products,
    row_outputs,
    vmap_gradients,
)
from subscape.gradients.plan import Plan, choose
from subscape.gradients.row_gradients import (
    DenseRowGradients,
    FactoredRowGradients,
    RowGradients,
    RowProducts,
)
from subscape.gradients.rules import register_rule
from subscape.gradients.source import GradientSource
from subscape.gradients.table_gradients import IndexedGradient
from subscape.gradients.tensor_gradients import DenseGradient, OuterGradient, TensorGradient

__all__ = [
    "DenseGradient",
    "DenseRowGradients",
    "FactoredRowGradients",
    "GradientSource",
    "IndexedGradient",
    "OuterGradient",
    "Plan",
    "RowGradients",
    "RowProducts",
    "TensorGradient",
    "choose",
    "jacobian",
    "loop_gradients",
    "loop_products",
    "register_rule",
    "row_outputs",
    "vmap_gradients",
]
