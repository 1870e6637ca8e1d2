"""Of every subnetwork the others that are nearest to it, from a map of all pairs that is never whole in memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from subscape._html import Printed
from subscape._shapes import Float, Int

WHOLE = 2_000
"""Up to so many subnetworks all pairs are kept."""
KEPT = 20
"""Others of each that are kept of more."""


@dataclass(frozen=True, repr=False)
class Neighbours(Printed):
    """The others of largest value of every subnetwork, falling; those without a number, NaN, come last."""

    others: Int[Tensor, "subnetwork near"]
    """Which ones."""
    values: Float[Tensor, "subnetwork near"]
    """Their values."""

    @classmethod
    def of(
        cls, blocks: Iterable[Float[Tensor, "_ subnetwork"]], n: int | None = None
    ) -> Neighbours:
        """From rows of the map, some after the other; `n` of each, by default all, or `KEPT` above `WHOLE`."""
        others, values, start = [], [], 0
        for rows in blocks:
            n_all = rows.shape[1]
            asked = (n_all if n_all <= WHOLE else KEPT) if n is None else n
            order = rows.nan_to_num(torch.finfo(rows.dtype).min)
            order.diagonal(start).fill_(-torch.inf)
            place = order.topk(min(asked, n_all - 1), dim=1).indices
            others.append(place.int().cpu())
            values.append(rows.gather(1, place).float().cpu())
            start += len(rows)
        return cls(torch.cat(others), torch.cat(values))

    def __len__(self) -> int:
        return len(self.others)

    def __repr__(self) -> str:
        return f"Neighbours({self.others.shape[1]} of each of {len(self)} subnetworks)"

    @property
    def whole(self) -> bool:
        """Whether all pairs are kept."""
        return self.others.shape[1] == len(self) - 1

    def row(self, k: int) -> Float[Tensor, " subnetwork"]:
        """The values of all with subnetwork k: 0 where they are not kept, 1 with itself."""
        row = torch.zeros(len(self)).index_put((self.others[k].long(),), self.values[k])
        row[k] = 1
        return row

    def matrix(self) -> Float[Tensor, "subnetwork subnetwork"]:
        """The rows of all."""
        return torch.stack([self.row(k) for k in range(len(self))])
