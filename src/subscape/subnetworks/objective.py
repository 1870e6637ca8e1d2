"""The reconstruction loss (FVU) of a batch of row gradients.

With codes s = select(⟨g, V_in⟩) a gradient is rebuilt as ĝ = s V_out, and

    FVU = Σ_rows ‖g − ĝ‖² / Σ_rows ‖g‖²     (pooled over the batch, uncentred; arXiv 2504.00194, Eq. 4-6).

Two exact forms. `dense_error` builds ĝ; evaluation uses it. `projected_error` never does: with
p = ⟨g, V_out⟩ and the Gram matrix K = V_out V_outᵀ, Σ‖g − ĝ‖² = Σ(‖g‖² − 2 s·p + sᵀK s). In float32 the
second loses digits as the FVU goes to zero (2e-6 relative at 0.1, 6e-2 at 1e-6), but it is cheaper, also
where dense rows exist: all restarts, encoder and decoder share one product with the gradients. Training
uses it.
"""

from __future__ import annotations

from torch import Tensor

from subscape._shapes import Float
from subscape.gradients.row_gradients import DenseRowGradients, RowProducts
from subscape.gradients.shared_rows import SharedRows
from subscape.lowrank import Stack
from subscape.lowrank.energy import energy, gram_fits


def dense_error(
    gradients: DenseRowGradients, codes: Float[Tensor, "*replica row subnetwork"], decoder: Stack
) -> Float[Tensor, "*replica"]:
    """Σ_rows ‖g − ĝ‖² by building ĝ: the definition, and the oracle of `projected_error`."""
    rebuilt = codes @ decoder.flat()
    rows = (
        gradients.flat if rebuilt.dim() == gradients.flat.dim() else gradients.flat[..., None, :, :]
    )
    return (rows - rebuilt).square().sum((-2, -1))


def projected_error(
    gradients: RowProducts, codes: Float[Tensor, "*replica row subnetwork"], decoder: Stack
) -> Float[Tensor, "*replica"]:
    """Σ_rows ‖g − ĝ‖² in subnetwork space, never building ĝ."""
    # The sums in float64: what cancellation then costs is that of the products.
    total = gradients.squared_norm().double().sum(-1)
    return error_of(total, codes.double(), gradients.inner(decoder).double(), decoder)


def reconstruction_error(
    gradients: RowProducts, codes: Float[Tensor, "*replica row subnetwork"], decoder: Stack
) -> Float[Tensor, "*replica"]:
    """Σ_rows ‖g − ĝ‖² by its definition where the gradients are dense, otherwise in subnetwork space."""
    if isinstance(gradients, SharedRows):
        return gradients.summed(
            lambda own, of_own: reconstruction_error(own, of_own, decoder), codes
        )
    if isinstance(gradients, DenseRowGradients):
        return dense_error(gradients, codes, decoder)
    return projected_error(gradients, codes, decoder)


def error_of(
    total: Float[Tensor, "*target"],
    codes: Float[Tensor, "*replica row subnetwork"],
    projected: Float[Tensor, "*replica row subnetwork"],
    decoder: Stack,
    gram: Float[Tensor, "*replica subnetwork subnetwork"] | None = None,
) -> Float[Tensor, "*replica"]:
    """Σ(‖g‖² − 2 s·p + sᵀK s) of every replica, Σ‖g‖² being given by target; K may be known."""
    if gram is not None or gram_fits(decoder, codes):
        gram = (decoder.gram() if gram is None else gram).to(codes.dtype)
        change = (codes * (codes @ gram - 2 * projected)).sum((-2, -1))
    else:
        rebuilt = energy(codes, Stack(decoder.layout, decoder.weights.to(codes.dtype)))
        change = rebuilt - 2 * (codes * projected).sum((-2, -1))
    return by_replica(total, change) + change


def by_replica(total: Tensor, like: Tensor) -> Tensor:
    """What is given by target, by replica: replicas of one target share its rows."""
    return total if total.dim() == like.dim() else total[..., None].expand(like.shape)
