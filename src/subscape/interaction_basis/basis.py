"""The basis of one node layer: principal directions, then the Jacobian step.

Row vectors throughout: f_hat = (f - mean) @ into, f = mean + f_hat @ back. The constant direction that the
published code carries as an extra coordinate is the mean here; with centred activations it meets no
other direction, so importances and edges are the same without it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from subscape._checks import require
from subscape._shapes import Float
from subscape.interaction_basis.moments import Moments

Kind = Literal["lib", "pca", "raw"]

NOISE = 10
"""Rounding errors of an eigendecomposition that count as zero, in units of width x machine epsilon.

The published absolute threshold 1e-15 lies below that noise and keeps directions that are none.
"""


@dataclass(frozen=True)
class LayerBasis:
    """Directions of one node layer, the most important first."""

    name: str
    kind: Kind
    mean: Float[Tensor, " node"]
    into: Float[Tensor, "node direction"]
    """C: from centred activations to the basis."""
    back: Float[Tensor, "direction node"]
    """Left inverse of C, back @ into = I, that maps to where the data lies; not the pseudo-inverse."""
    importance: Float[Tensor, " direction"]
    """LIB: mean square of a direction's activation, in units of its effect on the target. PCA: variance."""
    n_isolated: int = 0
    """Leading directions that are coordinates kept as they are, and not sorted."""

    @property
    def rank(self) -> int:
        """Number of directions."""
        return len(self.importance)

    @property
    def width(self) -> int:
        """Number of coordinates of the node layer."""
        return len(self.mean)

    def to(self, device: torch.device) -> LayerBasis:
        """The same basis on a device."""
        mean, into, back, importance = (
            tensor.to(device) for tensor in (self.mean, self.into, self.back, self.importance)
        )
        return replace(self, mean=mean, into=into, back=back, importance=importance)

    def encode(self, values: Float[Tensor, "... node"]) -> Float[Tensor, "... direction"]:
        """Activations in the basis, in their own dtype."""
        return (values - self.mean.to(values)) @ self.into.to(values)

    def decode(self, coordinates: Float[Tensor, "... direction"]) -> Float[Tensor, "... node"]:
        """The projection of the activations onto the directions kept."""
        return self.mean.to(coordinates) + coordinates @ self.back.to(coordinates)


def raw_basis(name: str, width: int, device: torch.device | None = None) -> LayerBasis:
    """The coordinates themselves, for a last layer that is not rotated (logits)."""
    eye = torch.eye(width, dtype=torch.float64, device=device)
    zero, one = eye.new_zeros(width), eye.new_ones(width)
    return LayerBasis(name, "raw", zero, eye, eye, one)


def pca_basis(
    name: str, moments: Moments, *, rtol: float | None = None, n_isolated: int = 0
) -> LayerBasis:
    """Principal directions, unit vectors and not scaled.

    Args:
        name: of the node layer.
        moments: of its activations.
        rtol: share of the largest variance below which a direction is dropped; by default what
            rounding makes of zero.
        n_isolated: leading coordinates that stay directions of their own.

    Returns:
        The basis; its importances are the variances.
    """
    covariance = moments.covariance
    rtol = _noise(len(covariance)) if rtol is None else rtol
    require(0 <= rtol < 1, "rtol", "a share from 0 to below 1", rtol)
    variance, directions = _sorted_eigh(covariance[n_isolated:, n_isolated:])
    alone = covariance.diagonal()[:n_isolated]
    whole = torch.block_diag(torch.eye(n_isolated).to(covariance), directions)
    variance = torch.cat([alone, variance])
    kept = variance > rtol * variance.max()
    require(
        bool(kept.any()),
        f"node layer {name!r}",
        "activations that vary",
        f"the same {len(covariance)} values at every data point",
        "A layer that does not depend on the data has no directions: leave it out of the chain.",
    )
    vectors = whole[:, kept]
    n_left = int(kept[:n_isolated].sum())
    return LayerBasis(name, "pca", moments.mean, vectors, vectors.mT, variance[kept], n_left)


def lib_basis(
    pca: LayerBasis, jacobian_gram: Float[Tensor, "node node"], *, rtol: float | None = None
) -> LayerBasis:
    """Turn principal directions into those of the Local Interaction Basis.

    Whitened by R = U D^(-1/2), rotated by the eigenvectors V of M = R^-1 M' R^-T, scaled by L, the roots of
    its eigenvalues: C = R V L, with left inverse L^-1 V^T R^-1.

    Args:
        pca: of the node layer, with its variances.
        jacobian_gram: M', the mean over data points of J J^T in the coordinates of the node layer.
        rtol: share of the largest importance below which a direction is dropped; by default what
            rounding makes of zero.

    Returns:
        The basis; its importances are the eigenvalues.
    """
    rtol = _noise(pca.rank) if rtol is None else rtol
    require(0 <= rtol < 1, "rtol", "a share from 0 to below 1", rtol)
    deviation = pca.importance.sqrt()
    whiten = pca.into / deviation
    unwhiten = deviation[:, None] * pca.back
    m = unwhiten @ jacobian_gram.double() @ unwhiten.mT
    n = pca.n_isolated
    importance, rotation = _sorted_eigh(m[n:, n:])
    importance = torch.cat([m.diagonal()[:n].clamp_min(0), importance])
    rotation = torch.block_diag(torch.eye(n).to(rotation), rotation)
    kept = importance > rtol * importance.max()
    require(
        bool(kept.any()),
        f"node layer {pca.name!r}",
        "an effect on the target",
        "a Jacobian of zero at every data point",
        "The sections after it ignore it, or all its units are saturated: leave the layer out.",
    )
    scale = importance[kept].sqrt()
    rotation = rotation[:, kept]
    return LayerBasis(
        pca.name,
        "lib",
        pca.mean,
        (whiten @ rotation) * scale,
        (rotation.mT @ unwhiten) / scale[:, None],
        importance[kept],
        int(kept[:n].sum()),
    )


def _noise(width: int) -> float:
    return NOISE * width * torch.finfo(torch.float64).eps


def _sorted_eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues from the largest on, those that rounding made negative as 0, and eigenvectors."""
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    return values.flip(0).clamp_min(0), vectors.flip(1)
