"""Paths: whether each subnetwork of a squaring network is the way from one input to its own output.

That is how the paper judges X→X² (arXiv 2504.00194, sec. 4.1.4), whatever the signs of the inputs: what a
subnetwork reads is seen in the columns of the first layer's weight, what it changes in the rows of the last one's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from subscape._shapes import Bool, Float, Int

OWN_SHARE = 0.8
"""Smallest share of its energy in each of the two weights that a subnetwork has on its own input and output."""


class Paths(NamedTuple):
    """Where subnetworks lead."""

    feature: Int[Tensor, " subnetwork"]
    """The input, and output, of each; -1 where it has no path of its own."""
    share: Float[Tensor, " subnetwork"]
    """The smaller of its shares, of what it reads from that input and changes in that output."""
    n_found: int
    """Features that have a subnetwork."""
    all_found: bool
    """Whether each alive subnetwork belongs to one feature, and all features have one."""


def paths(
    first: Float[Tensor, "subnetwork hidden feature"],
    last: Float[Tensor, "subnetwork feature hidden"],
    *,
    alive: Bool[Tensor, " subnetwork"],
) -> Paths:
    """Judge paths from the decoder's parts in the first and last weight."""
    read, changed = first.square().sum(-2), last.square().sum(-1)
    least = torch.finfo(read.dtype).tiny
    shares = torch.minimum(*(e / e.sum(1, keepdim=True).clamp_min(least) for e in (read, changed)))
    share, feature = shares.max(1)
    feature = torch.where(alive & (share >= OWN_SHARE), feature, -1)
    n_found = len(feature[feature >= 0].unique())
    complete = n_found == first.shape[-1] and bool((feature[alive] >= 0).all())
    return Paths(feature, share, n_found, complete)
