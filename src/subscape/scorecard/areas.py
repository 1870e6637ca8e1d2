"""AUROC of many figures for many classes at once, by ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from subscape._shapes import Bool, Float


def aurocs(
    values: Float[Tensor, "row figure"], positive: Bool[Tensor, "row class_"]
) -> Float[Tensor, "class_ figure"]:
    """Chance that a value of a class is larger than another one, ties by half; NaN of a class of none or all."""
    # Row by row of the transpose: sorting is many times faster along memory.
    columns = values.double().mT.contiguous()
    order = columns.argsort(1)
    ordered = columns.gather(1, order)
    places = torch.arange(1, len(values) + 1, device=values.device).expand_as(ordered).double()
    # Equal values have the mean of their places.
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    group = new.long().cumsum(1) - 1
    count = torch.zeros_like(ordered).scatter_add(1, group, torch.ones_like(ordered))
    total = torch.zeros_like(ordered).scatter_add(1, group, places)
    mean = (total / count.clamp_min(1)).gather(1, group)
    ranks = torch.empty_like(ordered).scatter(1, order, mean)
    inside = positive.double().sum(0)
    outside = len(values) - inside
    sums = positive.double().mT @ ranks.mT
    return (sums - (inside * (inside + 1) / 2)[:, None]) / (inside * outside)[:, None]
