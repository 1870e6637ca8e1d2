"""Find the sparsely active subnetworks in a model's loss landscape."""

from subscape._version import __version__
from subscape.data import text_windows
from subscape.gradients import GradientSource, register_rule
from subscape.measures import MeasureConfig, Measures
from subscape.measures.measure import measure
from subscape.references import FixedOutput, Pairs
from subscape.report import write_report
from subscape.subnetworks.decomposition import Decomposition, Subnetwork
from subscape.targets import Target
from subscape.training import TrainingConfig, decompose, estimate, prepare

__all__ = [
    "Decomposition",
    "FixedOutput",
    "GradientSource",
    "MeasureConfig",
    "Measures",
    "Pairs",
    "Subnetwork",
    "Target",
    "TrainingConfig",
    "__version__",
    "decompose",
    "estimate",
    "measure",
    "prepare",
    "register_rule",
    "text_windows",
    "write_report",
]
