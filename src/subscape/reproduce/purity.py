"""Purity: whether a subnetwork fires for one group of inputs only.

A subnetwork fires in a row if its coefficient there, after selection, is not zero; how large it is does
not matter. A row with several active groups counts for each of them, so that a pure subnetwork is not
blamed for its company; a subnetwork that fires at random gets the group's rate.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from subscape._shapes import Bool, Float, Int


@dataclass(frozen=True)
class Purity:
    """Whether a subnetwork fires for one group of inputs only."""

    purity: Float[Tensor, " subnetwork"]
    """Of the rows in which it fires, the share in which its majority group is active; NaN where it is
    dead or fires too rarely."""
    majority: Int[Tensor, " subnetwork"]
    """The group that is active in most of the rows in which it fires; -1 where there is no purity."""

    @property
    def mean(self) -> float:
        """Mean over the subnetworks that have a purity; NaN if none has."""
        return float(self.purity.nanmean())

    @property
    def n_groups(self) -> int:
        """Groups that are some subnetwork's majority."""
        return len(self.majority[self.majority >= 0].unique())


def purity(
    coefficients: Float[Tensor, "row subnetwork"],
    active_groups: Bool[Tensor, "row group"],
    *,
    alive: Bool[Tensor, " subnetwork"] | None = None,
    min_rate: float = 0.05,
) -> Purity:
    """Purities of the subnetworks that are alive and fire in more than `min_rate` of the rows."""
    fires = (coefficients != 0).double()
    together = fires.mT @ active_groups.double()
    n_fired = fires.sum(0)
    seen = n_fired > min_rate * len(fires)
    if alive is not None:
        seen = seen & alive
    most, majority = together.max(1)
    return Purity(
        torch.where(seen, most / n_fired.clamp(min=1), torch.nan),
        torch.where(seen, majority, -1),
    )
