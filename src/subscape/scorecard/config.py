"""How much a scorecard looks at."""

from __future__ import annotations

import math
from dataclasses import dataclass

from subscape._checks import nearest, require

SECTIONS = {
    "reconstruction": "Reconstruction: how much of the gradients is left unexplained (FVU)",
    "loudness": "Loudness: how much of Σ‖g‖² the loudest tenth of the rows holds",
    "agreement": "Agreement: subnetworks of whose 10 top contexts at least 8 share something",
    "selectivity": "Selectivity: what pushing one direction does to the rows it is for, and to the others",
    "separation": "Separation: AUROC of a subnetwork's code for what most of its top rows are, on rows to score",
    "probes": "Sparse probes: AUROC of a logistic regression on 1 and on 5 codes, on rows to score",
    "stability": "Stability: what has a counterpart in another run",
    "adversary": "Adversarial combination: how far subnetworks that are not active can move a row together",
    "twin": "Twin: the same decomposition of the same model with random weights",
}
"""The question of each, in the order in which they are made."""


@dataclass(frozen=True)
class ScoreConfig:
    """How much a scorecard looks at."""

    n_rows: int = 2048
    """Rows to score: for FVU, probes, AUROC, stability and pushes."""
    n_fit: int = 4096
    """Other rows, which principal directions, k-means, probes and the autoencoder are fitted on."""
    n_agree: int = 20_000
    """Rows among which the top contexts of every subnetwork are looked for."""
    n_references: int = 10
    """References drawn for each of those."""
    n_pushed: int = 30
    """Subnetworks to push."""
    n_attacked: int = 12
    """Rows to find adversarial combinations for."""
    n_ascent: int = 80
    """Steps of gradient ascent for each of them."""
    twin_steps: int | None = None
    """Training steps of the twin; by default those of the run, as far as the time allows."""
    minutes: float = 10.0
    """Processor time: what has not begun by then is left out, and the twin takes fewer steps."""
    leave_out: tuple[str, ...] = ()
    """Sections to leave out."""
    seed: int = 0
    """Draws rows, random directions and everything else."""

    def __post_init__(self) -> None:
        for name in ("n_rows", "n_fit", "n_agree", "n_references", "n_pushed", "n_attacked"):
            value = getattr(self, name)
            right = isinstance(value, int) and value >= 1
            require(right, name, "a whole number of at least 1", value)
        for name in ("n_ascent", "twin_steps"):
            value = getattr(self, name)
            right = value is None or (isinstance(value, int) and value >= 1)
            require(right, name, "a whole number of at least 1", value)
        finite = self.minutes > 0 and math.isfinite(self.minutes)
        require(finite, "minutes", "a number above 0", self.minutes)
        for name in self.leave_out:
            known = f"sections, of {list(SECTIONS)}"
            require(name in SECTIONS, "leave_out", known, repr(name), nearest(name, SECTIONS))
