"""What all sections of a scorecard look at: a decomposition, rows to score, and other rows to fit controls on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from subscape._shapes import Float, Int
from subscape.gradients import GradientSource
from subscape.gradients.micro_batches import MicroBatches
from subscape.gradients.row_gradients import RowGradients
from subscape.lowrank import Stack
from subscape.measures.control import random_like
from subscape.references import FixedOutput
from subscape.rows import Rows
from subscape.scorecard.chance import chance_of
from subscape.scorecard.config import ScoreConfig
from subscape.scorecard.kinds import Kinds
from subscape.subnetworks.decomposition import Decomposition
from subscape.targets import Target

KEPT_BYTES = 2**29
"""Row gradients that take no more than this are kept, others made anew whenever they are needed."""
BATCH = 256
"""Rows made at once."""


@dataclass(frozen=True)
class Part:
    """Rows of a data set: every row of some samples, one sample after the other."""

    source: GradientSource
    """Makes their gradients."""
    samples: Int[Tensor, " sample"]
    """Which samples."""
    kinds: Kinds
    """What is known of every row."""

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def rows(self) -> Rows:
        """The rows under the first draw of partners."""
        return self.source.rows_of(self.samples)

    @cached_property
    def gradients(self) -> MicroBatches:
        """Their gradients under that draw, as the decomposition weighs and measures them."""
        return self.gradients_of(self.source)

    def gradients_of(self, source: GradientSource) -> MicroBatches:
        """The gradients that another source of the same data makes of them."""
        parts = source.rows_of(self.samples).micro_batches(BATCH)
        makers: list[Callable[[], RowGradients]] = [lambda p=p: source.gradients(p) for p in parts]
        if len(self) * source.target.n_parameters * source.target.like.element_size() <= KEPT_BYTES:
            made = [make() for make in makers]
            makers = [lambda g=g: g for g in made]
        return MicroBatches(makers, [len(part) for part in parts])

    def inner(self, stack: Stack) -> Float[Tensor, "row direction"]:
        """⟨g_i, v_k⟩ of every row."""
        with torch.no_grad():
            return self.gradients.inner(stack)


@dataclass(frozen=True)
class Case:
    """A decomposition and what it is scored on."""

    decomposition: Decomposition
    """The subnetworks."""
    held: Part
    """Rows to score."""
    fit: Part
    """Rows that controls and probes are fitted on; none of `held`."""
    config: ScoreConfig
    """How much is looked at."""

    @property
    def target(self) -> Target:
        """The model and its parameters."""
        return self.held.source.target

    @property
    def n_references(self) -> int:
        """Draws of partners; where all rows have one reference there is nothing to draw."""
        fixed = isinstance(self.held.source.reference, FixedOutput)
        return 1 if fixed else self.config.n_references

    @cached_property
    def chance(self) -> Decomposition:
        """Random directions in place of the subnetworks."""
        return chance_of(self.decomposition, self.config.seed)

    @cached_property
    def random_decoder(self) -> Stack:
        """Random directions of the decoder's norms and ranks."""
        return random_like(self.decomposition.decoder, self.config.seed + 1)

    def coefficients(self, part: Part) -> Float[Tensor, "row direction"]:
        """⟨g_i, V_in⟩, active or not."""
        return part.inner(self.decomposition.encoder)

    @cached_property
    def held_coefficients(self) -> Float[Tensor, "row direction"]:
        """Of the rows to score."""
        return self.coefficients(self.held)

    @cached_property
    def fit_coefficients(self) -> Float[Tensor, "row direction"]:
        """Of the rows to fit on."""
        return self.coefficients(self.fit)

    @cached_property
    def codes(self) -> Float[Tensor, "row direction"]:
        """Of the rows to score, selected over all of them."""
        with torch.no_grad():
            return self.decomposition.dictionary.selection(self.held_coefficients)

    @cached_property
    def l0(self) -> float:
        """Active directions a row."""
        return float((self.codes != 0).double().sum(1).mean())

    @cached_property
    def gram(self) -> Float[Tensor, "fit fit"]:
        """⟨g_i, g_j⟩ of the rows to fit on."""
        with torch.no_grad():
            return self.fit.gradients.gram().double()

    @cached_property
    def cross(self) -> Float[Tensor, "row fit"]:
        """⟨g_i, g_j⟩ of rows to score with rows to fit on."""
        with torch.no_grad():
            return self.held.gradients.gram(self.fit.gradients).double()


def sparse(values: Float[Tensor, "row direction"], l0: float) -> Float[Tensor, "row direction"]:
    """The largest values, `l0` a row on average, and zeros: what batch top-k makes of them."""
    keep = min(max(1, round(l0 * len(values))), values.numel())
    cut = values.abs().flatten().topk(keep).values[-1]
    return values * (values.abs() >= cut)
