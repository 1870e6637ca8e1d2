"""The basis of one node layer: principal directions, then the Jacobian step.

Row vectors throughout: f_hat = (f - mean) @ into, f = mean + f_hat @ back. The constant direction that the
published code carries as an extra coordinate is the mean here; with centred activations it meets no
other direction, so importances and edges are the same without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

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
        return replace(self, **{name: getattr(self, name).to(device) for name in TENSORS})

    def encode(self, values: Float[Tensor, "... node"]) -> Float[Tensor, "... direction"]:
        """Activations in the basis, in their own dtype."""
        return (values - self.mean.to(values)) @ self.into.to(values)

    def decode(self, coordinates: Float[Tensor, "... direction"]) -> Float[Tensor, "... node"]:
        """The projection of the activations onto the directions kept."""
        return self.mean.to(coordinates) + coordinates @ self.back.to(coordinates)


TENSORS = ("mean", "into", "back", "importance")
"""Fields of a basis that are tensors."""


def to_tensors(
    bases: Mapping[str, LayerBasis],
) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """The tensors of bases as `key.field`, and by key the rest as JSON can hold it."""
    tensors = {f"{key}.{name}": getattr(b, name) for key, b in bases.items() for name in TENSORS}
    rest = {
        key: {name: value for name, value in vars(b).items() if name not in TENSORS}
        for key, b in bases.items()
    }
    return tensors, rest


def from_tensors(
    tensors: Mapping[str, Any], rest: Mapping[str, Mapping[str, Any]]
) -> dict[str, LayerBasis]:
    """What `to_tensors` took apart."""
    return {
        key: LayerBasis(**described, **{name: tensors[f"{key}.{name}"] for name in TENSORS})
        for key, described in rest.items()
    }


def raw_basis(name: str, width: int, device: torch.device | None = None) -> LayerBasis:
    """The coordinates themselves, for a last layer that is not rotated (logits)."""
    eye = torch.eye(width, dtype=torch.float64, device=device)
    zero, one = eye.new_zeros(width), eye.new_ones(width)
    return LayerBasis(name, "raw", zero, eye, eye, one)


def pca_basis(
    name: str, moments: Moments, *, rtol: float | None = None, n_isolated: int = 0
) -> LayerBasis:
    """Principal directions, unit vectors and not scaled; the importances are the variances.

    Directions below `rtol` of the largest variance are dropped, by default what rounding makes of zero; the
    first `n_isolated` coordinates stay directions of their own.
    """
    variance, vectors, n_left = _directions(moments.covariance, n_isolated, rtol)
    require(
        len(variance) > 0,
        f"node layer {name!r}",
        "activations that vary",
        f"the same {len(moments.mean)} values at every data point",
        "A layer that does not depend on the data has no directions: leave it out of the chain.",
    )
    return LayerBasis(name, "pca", moments.mean, vectors, vectors.mT, variance, n_left)


def rotated_basis(pca: LayerBasis, seed: int) -> LayerBasis:
    """A random rotation of principal directions, the isolated ones and raw coordinates left: a baseline."""
    if pca.kind == "raw":
        return pca
    generator = torch.Generator().manual_seed(seed)
    n = pca.rank - pca.n_isolated
    turn, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    turn = torch.block_diag(torch.eye(pca.n_isolated), turn).to(pca.into)
    into = pca.into @ turn
    variance = turn.square().mT @ pca.importance
    return replace(pca, into=into, back=turn.mT @ pca.back, importance=variance)


def lib_basis(
    pca: LayerBasis, jacobian_gram: Float[Tensor, "node node"], *, rtol: float | None = None
) -> LayerBasis:
    """Turn principal directions into those of the Local Interaction Basis.

    Whitened by R = U D^(-1/2), rotated by the eigenvectors V of M = R^-1 M' R^-T, scaled by L, the roots of
    its eigenvalues, which are the importances: C = R V L, with left inverse L^-1 V^T R^-1. `jacobian_gram` is
    M', the mean over data points of J J^T in the coordinates of the node layer.
    """
    deviation = pca.importance.sqrt()
    whiten = pca.into / deviation
    unwhiten = deviation[:, None] * pca.back
    m = unwhiten @ jacobian_gram.double() @ unwhiten.mT
    importance, rotation, n_left = _directions(m, pca.n_isolated, rtol)
    require(
        len(importance) > 0,
        f"node layer {pca.name!r}",
        "an effect on the target",
        "a Jacobian of zero at every data point",
        "The sections after it ignore it, or all its units are saturated: leave the layer out.",
    )
    scale = importance.sqrt()
    into, back = (whiten @ rotation) * scale, (rotation.mT @ unwhiten) / scale[:, None]
    return LayerBasis(pca.name, "lib", pca.mean, into, back, importance, n_left)


def _directions(
    matrix: Float[Tensor, "node node"], n_isolated: int, rtol: float | None
) -> tuple[Float[Tensor, " direction"], Float[Tensor, "node direction"], int]:
    """Eigenvalues from the largest on, and eigenvectors, but for those of the isolated coordinates in front.

    Those below the tolerance are dropped; the number says how many of the isolated ones are left.
    """
    rtol = NOISE * len(matrix) * torch.finfo(torch.float64).eps if rtol is None else rtol
    require(0 <= rtol < 1, "rtol", "a share from 0 to below 1", rtol)
    rest = matrix[n_isolated:, n_isolated:]
    values, vectors = torch.linalg.eigh((rest + rest.mT) / 2)
    values = torch.cat([matrix.diagonal()[:n_isolated], values.flip(0)]).clamp_min(0)
    vectors = torch.block_diag(torch.eye(n_isolated).to(vectors), vectors.flip(1))
    kept = values > rtol * values.max()
    return values[kept], vectors[:, kept], int(kept[:n_isolated].sum())
