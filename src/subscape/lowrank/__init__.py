"""Low-rank parameter directions: which pieces a direction is made of, and stacks of them."""

from subscape.lowrank.layout import Layout, TensorLayout, make_layout
from subscape.lowrank.stack import Stack, initial_stack

__all__ = ["Layout", "Stack", "TensorLayout", "initial_stack", "make_layout"]
