"""What a decomposition leaves of row gradients, e_i = g_i − ĝ_i, for finding directions that are missing.

Two forms answer the same questions: the vectors themselves where parameters are few, and their inner
products ⟨e_i, e_j⟩ = ⟨g_i, g_j⟩ − s_i·p_j − p_i·s_j + s_iᵀ K s_j where they are many, so that no dense
gradient is needed (s active coefficients, p = ⟨g, V_out⟩, K = V_out V_outᵀ).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from subscape._shapes import Float, Int
from subscape.gradients import RowGradients
from subscape.lowrank import Stack
from subscape.lowrank.energy import through_gram


@runtime_checkable
class Residual(Protocol):
    """Residual rows of every replica."""

    def square(self) -> Float[Tensor, "replica row"]:
        """‖e_i‖²."""
        ...

    def gains(self, at: Int[Tensor, "replica draw"], fair: int) -> Float[Tensor, "replica draw"]:
        """Γ(e_i / ‖e_i‖) of candidate rows: the sum of the `fair` largest (e·u)² of other rows."""
        ...

    def without(self, at: Int[Tensor, " replica"], fair: int) -> Residual:
        """The residual after the direction of one row per replica has explained its fair share of rows."""
        ...


@dataclass(frozen=True)
class VectorResidual:
    """The residual rows in full."""

    vectors: Float[Tensor, "replica row parameter"]
    """e_i."""

    def square(self) -> Float[Tensor, "replica row"]:
        """‖e_i‖²."""
        return self.vectors.square().sum(-1)

    def gains(self, at: Int[Tensor, "replica draw"], fair: int) -> Float[Tensor, "replica draw"]:
        """Γ of candidate rows; see `Residual`."""
        return _gains(self.vectors @ self._directions(at).mT, at, fair)

    def without(self, at: Int[Tensor, " replica"], fair: int) -> VectorResidual:
        """See `Residual`."""
        direction = self._directions(at[:, None])
        along = _fair_share((self.vectors @ direction.mT)[..., 0], fair)
        return VectorResidual(self.vectors - along[..., None] * direction)

    def _directions(self, at: Tensor) -> Tensor:
        rows = self.vectors.gather(1, at[..., None].expand(-1, -1, self.vectors.shape[-1]))
        return rows * _inverse(self.square().sqrt(), at)[..., None]


@dataclass(frozen=True)
class ProductResidual:
    """The inner products of the residual rows."""

    products: Float[Tensor, "replica row row"]
    """⟨e_i, e_j⟩."""

    def square(self) -> Float[Tensor, "replica row"]:
        """‖e_i‖²."""
        return self.products.diagonal(dim1=-2, dim2=-1).clamp_min(0)

    def gains(self, at: Int[Tensor, "replica draw"], fair: int) -> Float[Tensor, "replica draw"]:
        """Γ of candidate rows; see `Residual`."""
        return _gains(self._along(at), at, fair)

    def without(self, at: Int[Tensor, " replica"], fair: int) -> ProductResidual:
        """See `Residual`."""
        along = self._along(at[:, None])
        taken = _fair_share(along[..., 0], fair)[..., None]
        return ProductResidual(
            self.products - taken @ along.mT - along @ taken.mT + taken @ taken.mT
        )

    def _along(self, at: Tensor) -> Tensor:
        """⟨e_i, u⟩ with the unit directions u of candidate rows, [replica, row, draw]."""
        columns = self.products.gather(2, at[:, None].expand(-1, self.products.shape[1], -1))
        return columns * _inverse(self.square().sqrt(), at)[:, None]


def residual_of(
    gradients: RowGradients,
    kept: Float[Tensor, "replica row subnetwork"],
    decoder: Stack,
) -> Residual:
    """The residual of a reconstruction with active coefficients `kept`, in the smaller form."""
    if decoder.layout.n_parameters <= gradients.n_rows:
        return VectorResidual(gradients.flat - kept @ decoder.flat())
    projected = gradients.inner(decoder)
    cross = kept @ projected.mT
    rebuilt = through_gram(kept, decoder) @ kept.mT
    return ProductResidual(gradients.gram() - cross - cross.mT + rebuilt)


def residual_row(
    gradients: RowGradients,
    kept: Float[Tensor, "row subnetwork"],
    decoder: Stack,
    row: int,
) -> Float[Tensor, " parameter"]:
    """e_i of one row and replica in full: all tensors flattened and concatenated, in model order."""
    one = torch.zeros(1, gradients.n_rows, dtype=kept.dtype, device=kept.device)
    one[0, row] = 1
    active = kept[row].nonzero()[:, 0]
    return gradients.combined(one)[0] - kept[row, active] @ decoder.select(active).flat()


def _gains(along: Tensor, at: Tensor, fair: int) -> Tensor:
    """Γ from (e · u) [replica, row, draw]; the row that u comes from says nothing of it."""
    falls = along.square().scatter(1, at[:, None], 0.0)
    return falls.topk(fair, dim=1).values.sum(1)


def _fair_share(along: Tensor, fair: int) -> Tensor:
    """Coefficients along a direction in its fair share of rows, zero elsewhere."""
    cut = along.abs().topk(fair, dim=-1).values[:, -1:]
    return along * (along.abs() >= cut)


def _inverse(size: Float[Tensor, "replica row"], at: Int[Tensor, "replica draw"]) -> Tensor:
    """1 / ‖e_i‖ of candidate rows; 0 for rows that are explained, as rounding errors point nowhere."""
    least = size.amax(1, keepdim=True) * torch.finfo(size.dtype).eps ** 0.5
    own = size.gather(1, at)
    return torch.where(own > least, 1 / own.clamp_min(torch.finfo(size.dtype).tiny), 0.0)
