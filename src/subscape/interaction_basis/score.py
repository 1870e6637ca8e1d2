"""How good a network's outputs are: one number, the mean over scored items."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from subscape._checks import require
from subscape.interaction_basis.chain import Chain, batches


class Score(NamedTuple):
    """A score and which way is better."""

    name: str
    items: Callable[[Tensor, Tensor], Tensor]
    """(outputs, labels) -> one value per scored item."""
    higher_is_better: bool

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


ACCURACY = Score("accuracy", _hits, True)
CROSS_ENTROPY = Score("cross-entropy", _cross_entropy, False)
NEXT_TOKEN = Score("next-token cross-entropy", _next_token, False)
"""The labels are the tokens themselves."""


@torch.no_grad()
def evaluate(
    run: Callable[[Tensor], Tensor],
    inputs: Tensor,
    labels: Tensor,
    score: Score,
    *,
    batch_size: int = 1024,
) -> float:
    """Mean score over all items of all samples; a short last batch counts by its items."""
    require(
        len(labels) == len(inputs), "labels", f"one for each of {len(inputs)} samples", len(labels)
    )
    total, count = 0.0, 0
    pieces = zip(batches(inputs, batch_size), labels.split(batch_size), strict=True)
    for some, wanted in pieces:
        values = score.items(run(some), wanted)
        total += float(values.sum())
        count += values.numel()
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
        return evaluate(run, self.inputs, self.labels, self.score, batch_size=self.batch_size)

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
