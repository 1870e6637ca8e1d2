"""How much is measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from subscape._checks import require

RankBy = Literal["auto", "impact", "share"]


@dataclass(frozen=True)
class MeasureConfig:
    """How much is measured."""

    n_rows: int = 20_000
    """Rows to measure the impact over, at most; every position of a window is a row."""
    n_references: int = 10
    """References drawn for every row, where the rule draws any: all of a fixed reference are one."""
    n_top: int = 20
    """Top rows to keep of every subnetwork; of rows that have seen the same only one is."""
    rank_by: RankBy = "auto"
    """What top rows are ranked by: impact; share, the impact over the length of the row's gradient; auto, which is
    share where a sample is a row."""
    n_others: int = 48
    """Other rows, of which those without impact are a subnetwork's irrelevant rows."""
    n_outputs: int = 10
    """Outputs to name, most increased and most decreased each."""
    change: float = 0.1
    """How far a sweep goes: until the outputs of top rows have changed by this share of the median
    divergence between two rows."""
    n_deltas: int = 6
    """Sizes of δ in a sweep, each half of the next one."""
    n_partners: int = 3
    """Subnetworks most often active together with each, to measure the interaction with."""
    batch_size: int = 256
    """Rows whose gradients are made at once."""
    seed: int = 0
    """Draws rows, references and random directions."""

    def __post_init__(self) -> None:
        counts = ("n_rows", "n_references", "n_top", "n_others", "n_outputs", "n_deltas")
        for name in (*counts, "batch_size"):
            value = getattr(self, name)
            right = isinstance(value, int) and value >= 1
            require(right, name, "a whole number of at least 1", value)
        for name, most in (("n_references", 10_000), ("n_deltas", 60)):
            require(getattr(self, name) <= most, name, f"at most {most:,}", getattr(self, name))
        require(self.n_partners >= 0, "n_partners", "at least 0", self.n_partners)
        known = self.rank_by in ("auto", "impact", "share")
        require(known, "rank_by", "auto, impact or share", repr(self.rank_by))
        finite = self.change > 0 and math.isfinite(self.change)
        require(finite, "change", "a share above 0", self.change)
