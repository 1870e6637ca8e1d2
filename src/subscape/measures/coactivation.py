"""Co-activation: the correlation of being active, from a list of which subnetworks are active in which row.

In a row few subnetworks are active, so the list is short where a table of all pairs would not be.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from subscape._shapes import Bool, Float, Int
from subscape.lowrank.products import LARGEST_BLOCK

LISTED = 2**21
"""Entries from which on no more rows are listed: what is kept of a pass does not grow with the data."""


def listed(
    active: Bool[Tensor, "pair subnetwork"], before: Int[Tensor, " entry"], n_before: int
) -> Int[Tensor, " more"]:
    """The list with more (row, reference) pairs: places in the table of pairs by subnetworks."""
    more = active.flatten().nonzero()[:, 0] + n_before * active.shape[1]
    return torch.cat([before, more])


def blocks_of_coactivation(
    entries: Int[Tensor, " entry"], n_pairs: int, n: int
) -> Iterator[Float[Tensor, "some subnetwork"]]:
    """Correlations of some subnetworks after the other with all; NaN of one that never or always is active."""
    pair, which = entries // n, entries % n
    p = torch.bincount(which, minlength=n).double() / n_pairs
    spread = (p * (1 - p)).sqrt()
    n_active = torch.bincount(pair, minlength=n_pairs)
    first = n_active.cumsum(0) - n_active
    by_subnetwork = which.argsort(stable=True).split(torch.bincount(which, minlength=n).tolist())
    step = max(1, LARGEST_BLOCK // (8 * n))
    for start in range(0, n, step):
        together = torch.stack([
            _together(pair[mine], which, first, n_active, n)
            for mine in by_subnetwork[start : start + step]
        ])
        some = slice(start, start + step)
        yield (together / n_pairs - torch.outer(p[some], p)) / torch.outer(spread[some], spread)


def _together(
    pairs: Tensor, which: Tensor, first: Tensor, n_active: Tensor, n: int
) -> Float[Tensor, " subnetwork"]:
    """In how many of some pairs every subnetwork is active: each has `n_active` entries from `first` on."""
    sizes = n_active[pairs]
    ends = sizes.cumsum(0)
    within = torch.arange(int(sizes.sum())) - (ends - sizes).repeat_interleave(sizes)
    there = which[first[pairs].repeat_interleave(sizes) + within]
    return torch.bincount(there, minlength=n).double()
