"""Find the sparsely active subnetworks in a model's loss landscape."""

from subscape._version import __version__
from subscape.data import text_windows
from subscape.gradients import GradientSource, register_rule
from subscape.references import FixedOutput, Pairs
from subscape.subnetworks.decomposition import Decomposition, Subnetwork
from subscape.targets import Target
from subscape.training import TrainingConfig, decompose, estimate, prepare

__all__ = [
    "Decomposition",
    "FixedOutput",
    "GradientSource",
    "Pairs",
    "Subnetwork",
    "Target",
    "TrainingConfig",
    "__version__",
    "decompose",
    "estimate",
    "prepare",
    "register_rule",
    "text_windows",
]
