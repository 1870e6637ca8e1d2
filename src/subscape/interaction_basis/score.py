"""How good a network's outputs are: one number, the mean over scored items."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from subscape._checks import require
from subscape.interaction_basis.chain import Chain, batches

ROUNDING = 1e-9
"""Of a mean score."""


class Score(NamedTuple):
    """A score and which way is better."""

    name: str
    items: Callable[[Tensor, Tensor], Tensor]
    """(outputs, labels) -> one value per scored item."""
    higher_is_better: bool
    best: float | None = None
    """The best value that an item can have; None where there is no such."""

    def within(self, value: float, base: float, tolerance: float) -> bool:
        """Whether a score is at most `tolerance` worse than the base."""
        return value >= base - tolerance if self.higher_is_better else value <= base + tolerance


def _hits(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs.argmax(-1) == labels).double().flatten()


def _cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    flat = outputs.flatten(0, -2).double()
    return torch.nn.functional.cross_entropy(flat, labels.flatten(), reduction="none")


def _next_token(outputs: Tensor, labels: Tensor) -> Tensor:
    return _cross_entropy(outputs[:, :-1], labels[:, 1:])


def _distance(outputs: Tensor, wanted: Tensor) -> Tensor:
    rows, own = outputs.double().flatten(1), wanted.double().flatten(1)
    variance = (own - own.mean(0)).square().sum(1).mean()
    return (rows - own).square().sum(1) / variance.clamp_min(torch.finfo(torch.float64).tiny)


ACCURACY = Score("accuracy", _hits, True, 1.0)
CROSS_ENTROPY = Score("cross-entropy", _cross_entropy, False, 0.0)
NEXT_TOKEN = Score("next-token cross-entropy", _next_token, False, 0.0)
"""The labels are the tokens themselves."""
DISTANCE = Score("distance from its own outputs", _distance, False, 0.0)
"""Squared, as a share of the variance of the outputs, which are the labels."""


@torch.no_grad()
def evaluate(
    run: Callable[[Tensor], Tensor],
    inputs: Tensor,
    labels: Tensor,
    score: Score,
    *,
    batch_size: int = 1024,
    hopeless: Callable[[float], bool] | None = None,
) -> float | None:
    """Mean score over all items of all samples; a short last batch counts by its items.

    None as soon as `hopeless` holds for the mean that would come out if all items to come were perfect.
    """
    require(
        len(labels) == len(inputs), "labels", f"one for each of {len(inputs)} samples", len(labels)
    )
    total, count = 0.0, 0
    pieces = zip(batches(inputs, batch_size), labels.split(batch_size), strict=True)
    for some, wanted in pieces:
        values = score.items(run(some), wanted)
        total += float(values.sum())
        count += values.numel()
        if hopeless is not None and score.best is not None:
            whole = values.numel() / len(some) * len(inputs)
            if hopeless((total + (whole - count) * score.best) / whole):
                return None
    return total / count


@dataclass(frozen=True)
class Scored:
    """Where scores are measured."""

    inputs: Tensor
    labels: Tensor
    score: Score
    batch_size: int = 1024

    def of(self, run: Callable[[Tensor], Tensor]) -> float:
        """Score of a function from inputs to outputs."""
        score = evaluate(run, self.inputs, self.labels, self.score, batch_size=self.batch_size)
        assert score is not None
        return score

    def if_within(
        self, run: Callable[[Tensor], Tensor], base: float, tolerance: float
    ) -> float | None:
        """Score of a function if it is at most `tolerance` worse than the base, else None, maybe early."""
        score = evaluate(
            run,
            self.inputs,
            self.labels,
            self.score,
            batch_size=self.batch_size,
            # What rounding may make of a sum is no reason to stop.
            hopeless=lambda most: not self.score.within(most, base, tolerance + ROUNDING),
        )
        return score if score is not None and self.score.within(score, base, tolerance) else None

    @torch.no_grad()
    def at(self, chain: Chain, layer: int) -> Scored:
        """The same scores from a node layer on: the inputs are its activations."""
        pieces = [chain.nodes(some, layer)[-1] for some in batches(self.inputs, self.batch_size)]
        return replace(self, inputs=torch.cat(pieces))

    def base(self, chain: Chain) -> float:
        """Score of the network as it is; an error if it is not finite."""
        score = self.of(chain.outputs)
        require(
            math.isfinite(score),
            "inputs",
            f"a finite {self.score.name} of the whole network",
            f"{score}",
            "Check the inputs and labels that are scored.",
        )
        return score
