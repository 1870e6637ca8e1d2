"""The reconstruction loss (FVU) of a batch of row gradients.

With active coefficients s = topk(⟨g, V_in⟩) a gradient is rebuilt as ĝ = s V_out, and

    FVU = Σ_rows ‖g − ĝ‖² / Σ_rows ‖g‖²     (pooled over the batch, uncentred; arXiv 2504.00194, Eq. 4-6).

Two exact forms. `dense_error` builds ĝ; evaluation uses it. `projected_error` never does: with
p = ⟨g, V_out⟩ and the Gram matrix K = V_out V_outᵀ, Σ‖g − ĝ‖² = Σ(‖g‖² − 2 s·p + sᵀK s). In float32 the
second loses digits as the FVU goes to zero (2e-6 relative at 0.1, 6e-2 at 1e-6), but it is cheaper, also
where dense rows exist: all restarts, encoder and decoder share one product with the gradients. Training
uses it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
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
    both = Stack(encoder.layout, torch.cat([encoder.weights, decoder.weights], dim=-2))
    coefficients, projected = gradients.inner(both).chunk(2, dim=-1)
    active = batch_top_k(coefficients.detach(), active_fraction)
    kept = coefficients * active
    total = gradients.squared_norm().sum(-1)
    error = _error(total, kept, projected, decoder.gram())
    return Reconstruction(error, _expanded(total, error), coefficients, active)


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
    # The sums in float64: what cancellation then costs is that of the products.
    total = gradients.squared_norm().double().sum(-1)
    projected, gram = gradients.inner(decoder), decoder.gram()
    return _error(total, kept.double(), projected.double(), gram.double())


def reconstruction_error(
    gradients: RowGradients, kept: Float[Tensor, "*replica row subnetwork"], decoder: Stack
) -> Float[Tensor, "*replica"]:
    """Σ_rows ‖g − ĝ‖² by its definition where the gradients are dense, otherwise in subnetwork space."""
    if isinstance(gradients, DenseRowGradients):
        return dense_error(gradients, kept, decoder)
    return projected_error(gradients, kept, decoder)


def _error(total: Tensor, kept: Tensor, projected: Tensor, gram: Tensor) -> Tensor:
    """Σ(‖g‖² − 2 s·p + sᵀK s) of every replica."""
    change = (kept * (kept @ gram - 2 * projected)).sum((-2, -1))
    return _expanded(total, change) + change


def _expanded(total: Tensor, like: Tensor) -> Tensor:
    """What is given by target, by replica: replicas of one target share its rows."""
    return total if total.dim() == like.dim() else total[..., None].expand(like.shape)
