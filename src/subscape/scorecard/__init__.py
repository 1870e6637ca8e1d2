"""The scorecard: every figure of a decomposition beside its controls."""

from subscape.scorecard.config import ScoreConfig
from subscape.scorecard.record import Scorecard

__all__ = ["ScoreConfig", "Scorecard"]
