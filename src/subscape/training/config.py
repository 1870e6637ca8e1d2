"""Settings of a decomposition and its training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from subscape._checks import require
from subscape.lowrank.layout import Form, RankChoice
from subscape.subnetworks.selection import check_active_fraction


@dataclass(frozen=True)
class TrainingConfig:
    """How many subnetworks of what rank, and how they are trained."""

    n_subnetworks: int = 100
    """Number of subnetworks."""
    rank: RankChoice | Mapping[str, RankChoice] = 0.1
    """Rank per tensor: an integer, a share of each dimension, ranks per mode, or any of these by glob."""
    form: Form = "tucker"
    """Low-rank form of matrices and kernels: `tucker` or `cp`."""
    active_fraction: float = 0.1
    """k of batch top-k: share of the (row, subnetwork) pairs of a batch that stay active."""
    steps: int = 10_000
    """Optimiser steps."""
    batch_size: int = 128
    """Rows per step."""
    learning_rate: float = 0.01
    """Step size of Adam at the start."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    """`cosine` falls to 0 at the end; `step` multiplies by `decay` after every `decay_every` steps."""
    decay: float = 0.8
    """Factor of the `step` schedule (the published one is 0.8)."""
    decay_every: int = 3_200
    """Steps between two decays (published for toys: 100 epochs, which are 3,200 steps)."""
    warm_start: float = 0.1
    """Share of the steps, at the start, in which all coefficients are active."""
    n_restarts: int = 1
    """Starts trained side by side; the one with the lowest FVU on rows not trained on is kept."""
    revive_every: int = 200
    """Steps between revivals: subnetworks that are dead or of little use start anew (0: never)."""
    revive_until: float = 0.5
    """Share of the steps after which nothing is revived any more."""
    n_heldout_rows: int = 1024
    """Rows not trained on, over which the restarts are compared and the FVU is reported."""
    memory_gib: float = 4.0
    """Memory for the rows of a step and the directions they meet; larger batches are made in parts."""
    seed: int = 0
    """Draws the start and the order of rows and references."""
    log_every: int = 100
    """Steps between two lines of metrics."""
    checkpoint_every: int = 1_000
    """Steps between two checkpoints, where there is a run folder."""

    def __post_init__(self) -> None:
        check_active_fraction(self.active_fraction)
        for name in (
            "n_subnetworks",
            "steps",
            "batch_size",
            "decay_every",
            "n_restarts",
            "revive_every",
            "n_heldout_rows",
            "log_every",
            "checkpoint_every",
        ):
            value, least = getattr(self, name), 0 if name == "revive_every" else 1
            require(
                isinstance(value, int) and value >= least,
                name,
                f"a whole number of at least {least}",
                repr(value),
            )
        for name in ("learning_rate", "decay", "memory_gib"):
            require(getattr(self, name) > 0, name, "a positive number", repr(getattr(self, name)))
        require(
            self.schedule in ("cosine", "step", "constant"),
            "schedule",
            "'cosine', 'step' or 'constant'",
            repr(self.schedule),
        )
        for name in ("warm_start", "revive_until"):
            value = getattr(self, name)
            require(0 <= value <= 1, name, "a share of the steps in [0, 1]", repr(value))
