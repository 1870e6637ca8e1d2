"""Fine-tuning along subnetworks: a model moved by one number each.

The function is imported from its file: `from subscape.finetuning.finetune import finetune`.
"""

from subscape.finetuning.config import FinetuneConfig
from subscape.finetuning.finetuned import Finetuned
from subscape.finetuning.steered import SteeredModel

__all__ = ["FinetuneConfig", "Finetuned", "SteeredModel"]
