"""Means and covariances of node layers, in one streaming pass and in float64.

Two passes over the data would need it twice; the merge of Chan, Golub and LeVeque (1979) gives the same
numbers from one, whatever the batches.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from subscape._checks import require
from subscape._progress import bar
from subscape._shapes import Float
from subscape.interaction_basis.chain import Chain, batches, require_finite


@dataclass(frozen=True)
class Moments:
    """First and second moment of one node layer over samples and positions."""

    count: int
    """Samples times positions."""
    mean: Float[Tensor, " node"]
    covariance: Float[Tensor, "node node"]
    """Mean of (f - mean)^T (f - mean), not corrected for the degree of freedom of the mean."""


@torch.no_grad()
def node_moments(
    chain: Chain,
    inputs: Tensor,
    *,
    batch_size: int = 1024,
    allow_low_rank: bool = False,
    progress: bool = False,
) -> tuple[Moments, ...]:
    """Run the chain and gather the moments of all its node layers.

    With `allow_low_rank` fewer data points than a layer is wide are taken as they are; the bases then only hold
    the directions that the data spans.
    """
    sums = [_Running() for _ in chain.names]
    for batch in bar("moments", list(batches(inputs, batch_size)), progress=progress):
        for name, running, values in zip(chain.names, sums, chain.nodes(batch), strict=True):
            require_finite(name, values)
            running.add(values)
    found = tuple(running.result() for running in sums)
    for name, moments in zip(chain.names, found, strict=True):
        width = len(moments.mean)
        require(
            allow_low_rank or moments.count > width,
            "inputs",
            f"more data points than the {width} dimensions of node layer {name!r}",
            f"{moments.count} samples x positions, which leave a rank of at most {moments.count - 1}",
            "Pass more data (gram_inputs), or allow_low_rank=True to go on with that rank.",
        )
    return found


def moments_in_two_passes(activations: Iterable[Float[Tensor, "..."]]) -> Moments:
    """The same by the definition: the mean first, then the products. For tests."""
    rows = torch.cat([values.double().flatten(0, -2) for values in activations])
    centred = rows - rows.mean(0)
    return Moments(len(rows), rows.mean(0), centred.mT @ centred / len(rows))


class _Running:
    """Count, mean and sum of centred products so far."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.products = torch.zeros(())

    def add(self, values: Tensor) -> None:
        rows = values.double().flatten(0, -2)
        mean = rows.mean(0)
        centred = rows - mean
        products = centred.mT @ centred
        total = self.count + len(rows)
        shift = mean - self.mean
        between = shift[:, None] * shift * (self.count * len(rows) / total)
        self.products = self.products + (products + between)
        self.mean = self.mean + shift * (len(rows) / total)
        self.count = total

    def result(self) -> Moments:
        return Moments(self.count, self.mean, self.products / self.count)
