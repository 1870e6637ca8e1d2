"""The reconstruction loss (FVU) of a batch of row gradients.

With active coefficients s = topk(⟨g, V_in⟩) a gradient is rebuilt as ĝ = s V_out, and

    FVU = Σ_rows ‖g − ĝ‖² / Σ_rows ‖g‖²     (pooled over the batch, uncentred; arXiv 2504.00194, Eq. 4-6).

Two exact forms. `dense_error` builds ĝ; evaluation uses it. `projected_error` never does: with
p = ⟨g, V_out⟩ and the Gram matrix K = V_out V_outᵀ, Σ‖g − ĝ‖² = Σ(‖g‖² − 2 s·p + sᵀK s). In float32 the
second loses digits as the FVU goes to zero (2e-6 relative at 0.1, 6e-2 at 1e-6), but it is cheaper, also
where dense rows exist: all restarts share one product with the gradients. Training uses it.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from subscape._shapes import Bool, Float
from subscape.gradients.row_gradients import DenseRowGradients, RowGradients
from subscape.lowrank import Stack
from subscape.subnetworks.selection import batch_top_k


class Reconstruction(NamedTuple):
    """One pass of a batch through encoder, batch top-k and decoder."""

    error: Float[Tensor, "*replica"]
    """Σ_rows ‖g − ĝ‖²."""
    total: Float[Tensor, "*replica"]
    """Σ_rows ‖g‖²."""
    coefficients: Float[Tensor, "*replica row subnetwork"]
    """⟨g, V_in⟩, before selection."""
    active: Bool[Tensor, "*replica row subnetwork"]
    """Which of them are kept."""

    @property
    def fvu(self) -> Float[Tensor, "*replica"]:
        """Fraction of variance unexplained, pooled and uncentred."""
        return self.error / self.total


def reconstruct(
    gradients: RowGradients, encoder: Stack, decoder: Stack, active_fraction: float
) -> Reconstruction:
    """Encode a batch, keep the batch top-k, and measure what the decoder leaves unexplained.

    Args:
        gradients: row gradients of the batch.
        encoder: V_in, [*replica, subnetwork].
        decoder: V_out, [*replica, subnetwork].
        active_fraction: k of batch top-k.

    Returns:
        Error, total, coefficients and mask, differentiable in both stacks.
    """
    coefficients = gradients.inner(encoder)
    active = batch_top_k(coefficients.detach(), active_fraction)
    error = projected_error(gradients, coefficients * active, decoder)
    total = _total(gradients, error)
    return Reconstruction(error, total, coefficients, active)


def dense_error(
    gradients: DenseRowGradients, kept: Float[Tensor, "*replica row subnetwork"], decoder: Stack
) -> Float[Tensor, "*replica"]:
    """Σ_rows ‖g − ĝ‖² by building ĝ: the definition, and the oracle of `projected_error`."""
    rebuilt = kept @ decoder.flat()
    rows = (
        gradients.flat if rebuilt.dim() == gradients.flat.dim() else gradients.flat[..., None, :, :]
    )
    return (rows - rebuilt).square().sum((-2, -1))


def projected_error(
    gradients: RowGradients, kept: Float[Tensor, "*replica row subnetwork"], decoder: Stack
) -> Float[Tensor, "*replica"]:
    """Σ_rows ‖g − ĝ‖² in subnetwork space, never building ĝ."""
    projected = gradients.inner(decoder)
    directions = decoder.flat()
    gram = directions @ directions.mT
    change = (kept * (kept @ gram - 2 * projected)).sum((-2, -1))
    return _total(gradients, change) + change


def _total(gradients: RowGradients, like: Tensor) -> Tensor:
    """Σ_rows ‖g‖² for every replica: replicas of one target share its rows."""
    total = gradients.squared_norm().sum(-1)
    return total if total.dim() == like.dim() else total[..., None].expand(like.shape)
