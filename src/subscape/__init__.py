"""Find the sparsely active subnetworks in a model's loss landscape."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from subscape._version import __version__

if TYPE_CHECKING:
    from subscape.data import text_windows
    from subscape.explorer import explore
    from subscape.finetuning import FinetuneConfig, Finetuned, SteeredModel
    from subscape.finetuning.finetune import finetune
    from subscape.finetuning.removal import remove
    from subscape.gradients import GradientSource, register_rule
    from subscape.measures import MeasureConfig, Measures
    from subscape.measures.contrast import contrast
    from subscape.measures.measure import measure
    from subscape.notebook import show
    from subscape.references import FixedOutput, Pairs
    from subscape.report import write_report
    from subscape.scorecard import Scorecard, ScoreConfig
    from subscape.scorecard.compare import Comparison, compare
    from subscape.scorecard.score import score
    from subscape.subnetworks.decomposition import Decomposition
    from subscape.subnetworks.subnetwork import Subnetwork
    from subscape.targets import Target
    from subscape.training import TrainingConfig
    from subscape.training.blocks import decompose_blocks
    from subscape.training.decompose import decompose, prepare
    from subscape.training.estimate import estimate

__all__ = [
    "Comparison",
    "Decomposition",
    "FinetuneConfig",
    "Finetuned",
    "FixedOutput",
    "GradientSource",
    "MeasureConfig",
    "Measures",
    "Pairs",
    "ScoreConfig",
    "Scorecard",
    "SteeredModel",
    "Subnetwork",
    "Target",
    "TrainingConfig",
    "__version__",
    "compare",
    "contrast",
    "decompose",
    "decompose_blocks",
    "estimate",
    "explore",
    "finetune",
    "measure",
    "prepare",
    "register_rule",
    "remove",
    "score",
    "show",
    "text_windows",
    "write_report",
]
HOMES = {
    "data": ("text_windows",),
    "explorer": ("explore",),
    "finetuning": ("FinetuneConfig", "Finetuned", "SteeredModel"),
    "finetuning.finetune": ("finetune",),
    "finetuning.removal": ("remove",),
    "gradients": ("GradientSource", "register_rule"),
    "measures": ("MeasureConfig", "Measures"),
    "measures.contrast": ("contrast",),
    "measures.measure": ("measure",),
    "notebook": ("show",),
    "references": ("FixedOutput", "Pairs"),
    "report": ("write_report",),
    "subnetworks.decomposition": ("Decomposition",),
    "subnetworks.subnetwork": ("Subnetwork",),
    "scorecard": ("ScoreConfig", "Scorecard"),
    "scorecard.compare": ("Comparison", "compare"),
    "scorecard.score": ("score",),
    "targets": ("Target",),
    "training": ("TrainingConfig",),
    "training.blocks": ("decompose_blocks",),
    "training.decompose": ("decompose", "prepare"),
    "training.estimate": ("estimate",),
}
"""Where the public names live: imported at their first use, as torch takes a second or two to load."""


def __getattr__(name: str) -> Any:
    for home, names in HOMES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"subscape.{home}"), name)
            return value
        if name == home:  # `import subscape` is enough for `subscape.measures`
            return import_module(f"subscape.{name}")
    raise AttributeError(f"module 'subscape' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
