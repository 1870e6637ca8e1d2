"""Settings of a decomposition and its training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from subscape._checks import require
from subscape.lowrank.layout import Form, RankChoice
from subscape.rows import RowKind
from subscape.subnetworks.selection import BatchTopK, GroupTopK, check_l0, selection_of

Start = Literal["random", "clusters"]

MOST_ROWS = 10_000_000
DEFAULTS = {"sample": (0.1, 0.1), "token": (0.25, 0.05), "sampled-token": (0.25, 0.05)}
"""Rank and active fraction by kind of row: 0.1 are the paper's, those of tokens the best of docs/geometry.md."""


@dataclass(frozen=True)
class TrainingConfig:
    """How many subnetworks of what rank, and how they are trained."""

    n_subnetworks: int = 100
    """Number of subnetworks."""
    rank: RankChoice | Mapping[str, RankChoice] | None = None
    """Rank per tensor: an integer, a share of each dimension, ranks per mode, or any of these by glob; by default
    0.25 where rows are tokens, else 0.1."""
    form: Form = "tucker"
    """Low-rank form of matrices and kernels: `tucker` or `cp`."""
    l0: float | None = None
    """Active subnetworks per row, on average; or give active_fraction."""
    active_fraction: float | None = None
    """The same as a share of all subnetworks, k in the paper; where neither is given 0.05 where rows
    are tokens, else 0.1."""
    selection: str = "batch-top-k"
    """Which are active: `batch-top-k`, the largest coefficients of a batch; `jumprelu`, those above a learned
    threshold of each; or another key of `SELECTIONS`."""
    group_size: int = 1
    """Directions of a subnetwork, which are active together; of more than one, batch top-k selects by the length
    of what they add together."""
    steps: int = 2_000
    """Optimiser steps."""
    batch_size: int = 256
    """Rows per step."""
    learning_rate: float = 0.006
    """Step size of Adam at the start."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    """`cosine` falls to 0 at the end; `step` multiplies by `decay` after every `decay_every` steps."""
    decay: float = 0.8
    """Factor of the `step` schedule (the published one is 0.8)."""
    decay_every: int = 3_200
    """Steps between two decays (published for toys: 100 epochs, which are 3,200 steps)."""
    start: Start | None = None
    """Where subnetworks start: at `random` directions, or at the middles of `clusters` of training rows; by
    default clusters where rows are samples, the recipe is whitened and subnetworks are single directions."""
    dense_warmup: float | None = None
    """Share of the steps, at the start, in which all coefficients are active; by default 0.1 from random
    directions, and 0 from clusters, which it would mix."""
    n_restarts: int = 1
    """Starts trained side by side; the one with the lowest FVU on rows not trained on is kept."""
    resample_every: int = 200
    """Steps between resamplings: subnetworks that are dead or of little use start anew (0: never)."""
    resample_until: float = 0.5
    """Share of the steps after which nothing is resampled any more."""
    consolidate: bool = False
    """Merge and drop subnetworks that are not one of their own, after 60 % of the steps: n_subnetworks may then be
    too many, and the number that is left is a result."""
    n_heldout_rows: int = 1024
    """Rows not trained on, over which the restarts are compared and the FVU is reported."""
    memory_gib: float = 4.0
    """Memory for the rows of a step and the directions they meet; larger batches are made in parts, which
    changes no result."""
    micro_batch_size: int | None = None
    """Rows made at once, instead of what memory_gib allows."""
    seed: int = 0
    """Draws the start and the order of rows and references."""
    log_every: int = 100
    """Steps between two lines of metrics."""
    checkpoint_every: int = 1_000
    """Steps between two checkpoints, where there is a run folder."""

    def of_rows(self, kind: RowKind) -> TrainingConfig:
        """With what was not given, by kind of row."""
        rank, fraction = DEFAULTS.get(kind, DEFAULTS["sample"])
        open_ = self.l0 is None and self.active_fraction is None
        return replace(
            self,
            rank=rank if self.rank is None else self.rank,
            active_fraction=fraction if open_ else self.active_fraction,
        )

    @property
    def warmup(self) -> float:
        """Share of the steps in which all coefficients are active."""
        by_default = 0.0 if self.start == "clusters" else 0.1
        return by_default if self.dense_warmup is None else self.dense_warmup

    @property
    def n_directions(self) -> int:
        """Directions of all subnetworks."""
        return self.n_subnetworks * self.group_size

    @property
    def selection_kind(self) -> str:
        """Key of `SELECTIONS`."""
        return self.selection if self.group_size == 1 else GroupTopK.kind

    @property
    def n_active(self) -> float:
        """Active subnetworks per row."""
        return self.n_active_of(self.n_subnetworks)

    def n_active_of(self, n_subnetworks: int) -> float:
        """Active subnetworks per row where only so many are left: l0 stays, a fraction is one of them."""
        if self.l0 is not None:
            return min(self.l0, n_subnetworks)
        return (self.active_fraction or DEFAULTS["sample"][1]) * n_subnetworks

    def __post_init__(self) -> None:
        require(
            self.l0 is None or self.active_fraction is None,
            "l0",
            "l0 or active_fraction, which say the same",
            f"l0={self.l0} and active_fraction={self.active_fraction}",
            "Leave one of them out.",
        )
        fraction = self.active_fraction
        require(
            fraction is None or 0 < fraction <= 1,
            "active_fraction",
            "a share in (0, 1] of all subnetworks",
            repr(fraction),
            "0.1 keeps a tenth of the coefficients of a batch.",
        )
        require(
            self.micro_batch_size is None or self.micro_batch_size >= 1,
            "micro_batch_size",
            "a whole number of at least 1",
            repr(self.micro_batch_size),
        )
        selection_of(self.selection)
        require(
            self.group_size == 1 or self.selection in (BatchTopK.kind, GroupTopK.kind),
            "group_size",
            f"1 with selection={self.selection!r}",
            repr(self.group_size),
            f"Use selection={BatchTopK.kind!r} for groups.",
        )
        require(
            self.group_size == 1 or not self.consolidate,
            "consolidate",
            "False with groups, which are not merged",
            f"True with group_size={self.group_size}",
        )
        for name in (
            "n_subnetworks",
            "group_size",
            "steps",
            "batch_size",
            "decay_every",
            "n_restarts",
            "resample_every",
            "n_heldout_rows",
            "log_every",
            "checkpoint_every",
        ):
            value, least = getattr(self, name), 0 if name == "resample_every" else 1
            require(
                isinstance(value, int) and value >= least,
                name,
                f"a whole number of at least {least}",
                repr(value),
            )
        for name in ("learning_rate", "decay", "memory_gib"):
            value = getattr(self, name)
            require(0 < value < math.inf, name, "a positive number", repr(value))
        n = self.n_heldout_rows
        require(n <= MOST_ROWS, "n_heldout_rows", f"at most {MOST_ROWS:,}", f"{n:,}")
        require(
            self.schedule in ("cosine", "step", "constant"),
            "schedule",
            "'cosine', 'step' or 'constant'",
            repr(self.schedule),
        )
        require(
            self.start in (None, "random", "clusters"),
            "start",
            "'random' or 'clusters'",
            repr(self.start),
        )
        for name in ("dense_warmup", "resample_until"):
            value = getattr(self, name)
            require(
                value is None or 0 <= value <= 1,
                name,
                "a share of the steps in [0, 1]",
                repr(value),
            )
        check_l0(self.n_active if self.l0 is None else self.l0, self.n_subnetworks)
