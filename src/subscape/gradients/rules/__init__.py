"""Rules: row gradients of known modules from their inputs and output gradients, a family a file."""

from subscape.gradients.rules._convolution import convolution
from subscape.gradients.rules._embedding import embedding
from subscape.gradients.rules._linear import linear, transposed_linear
from subscape.gradients.rules._recurrent import recurrent
from subscape.gradients.rules.norm import batch_norm, group_norm, layer_norm, rms_norm
from subscape.gradients.rules.registry import Rule, register_rule, rule_of

__all__ = [
    "Rule",
    "batch_norm",
    "convolution",
    "embedding",
    "group_norm",
    "layer_norm",
    "linear",
    "recurrent",
    "register_rule",
    "rms_norm",
    "rule_of",
    "transposed_linear",
]
