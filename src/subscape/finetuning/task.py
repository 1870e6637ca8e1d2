"""What is to become small: its gradient on the batch of a step, and its figures on held-out samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from subscape._checks import problem
from subscape.divergences import Divergence
from subscape.finetuning.config import FinetuneConfig
from subscape.finetuning.examples import Examples
from subscape.finetuning.losses import Loss, movement, value_of
from subscape.finetuning.steered import SteeredModel


class Samples(NamedTuple):
    """All that is learned from and looked at."""

    learned: Examples
    held: Examples
    others: Examples | None
    held_others: Examples | None


class Figures(NamedTuple):
    """What coefficients do to held-out samples."""

    loss: float
    moved: float
    moved_others: float | None


@dataclass(frozen=True)
class Task:
    """What is to become small."""

    steered: SteeredModel
    loss: Loss
    divergence: Divergence
    config: FinetuneConfig

    def gradient(self, values: Tensor, samples: Samples, step: int) -> Tensor:
        """Of the loss and of what keeps other outputs, over the batch of a step, by the coefficients."""
        config, delta = self.config, self.steered.coefficients
        self.set(values)
        batch = self._batch(samples.learned, step)
        outputs = self.steered.outputs(batch.inputs)
        total = value_of(self.loss, outputs, batch.given)
        if config.keep > 0:
            other = batch if samples.others is None else self._batch(samples.others, step)
            theirs = outputs if samples.others is None else self.steered.outputs(other.inputs)
            total = total + config.keep * self._movement(theirs, other).mean()
        check_finite(total, step)
        return torch.autograd.grad(total, delta)[0]

    @torch.no_grad()
    def figures(self, values: Tensor, samples: Samples, *, whole: bool) -> Figures:
        """On held-out samples; how far outputs moved only if it counts, or if all is asked for."""
        self.set(values)
        keep = self.config.keep > 0
        own = whole or (keep and samples.held_others is None)
        loss, moved = self._means(samples.held, loss=True, moved=own)
        others = None
        if samples.held_others is not None and (whole or keep):
            others = self._means(samples.held_others, loss=False, moved=True)[1]
        return Figures(loss, moved, others)

    def objective(self, values: Tensor, samples: Samples) -> float:
        """What is to become small, on held-out samples."""
        figures = self.figures(values, samples, whole=False)
        moved = figures.moved if figures.moved_others is None else figures.moved_others
        penalty = self.config.l1 * float(values.abs().sum())
        return figures.loss + self.config.keep * moved + penalty

    def set(self, values: Tensor) -> None:
        """Move the model."""
        with torch.no_grad():
            self.steered.coefficients.copy_(values)

    def _batch(self, examples: Examples, step: int) -> Examples:
        batch = examples.batch(step, self.config.batch_size, self.config.seed)
        return batch.to(self.steered.coefficients.device)

    def _movement(self, outputs: Tensor, examples: Examples) -> Tensor:
        with torch.no_grad():
            original = self.steered.target.called(examples.inputs)
        return movement(self.divergence, outputs, original, examples.inputs)

    def _means(self, examples: Examples, *, loss: bool, moved: bool) -> tuple[float, float]:
        """Means over all samples and over all rows."""
        losses, rows = 0.0, []
        for part in examples.parts(self.config.batch_size):
            here = part.to(self.steered.coefficients.device)
            outputs = self.steered.outputs(here.inputs)
            if loss:
                value = value_of(self.loss, outputs, here.given)
                losses += float(check_finite(value, None)) * len(part) / len(examples)
            if moved:
                rows.append(self._movement(outputs, here))
        return losses, float(torch.cat(rows).mean()) if rows else 0.0


def check_finite(value: Tensor, step: int | None) -> Tensor:
    """Refuse a loss that is not a number any more."""
    if not bool(torch.isfinite(value)):
        where = "held-out samples" if step is None else f"the batch of step {step}"
        raise ValueError(
            problem(
                "loss",
                "a finite number",
                f"{float(value.detach())} on {where}",
                "Look at data and loss; if they are right, take a smaller learning_rate.",
            )
        )
    return value
