"""Oracle FVU: how well given directions can reconstruct gradients at a given L0, with the best codes.

An FVU means nothing without its L0 and this number beside it: with the true directions and at most L0
active ones per row on average, no encoder does better. Baselines are the same with other directions.

Codes are found in three steps. Per row and size s, the subset of s directions that explains most: by
trying all subsets while there are at most `MAX_SUBSETS` of that size, beyond that by orthogonal least
squares (add the direction that explains most together with those already taken). Coefficients are refitted
by least squares. Then the budget of round(L0 · rows) is spread over the rows by gain per active direction,
best first, as batch top-k spreads it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from subscape._checks import require
from subscape._shapes import Float, Int
from subscape.subnetworks.sparse_codes import SMALL_PIVOT, pursuit, spread

MAX_SUBSETS = 3000
"""Subsets of one size that are all tried: every pair of 77, triple of 27, quadruple of 17."""
ROW_CHUNK = 512


@dataclass(frozen=True)
class Oracle:
    """The best reconstruction found."""

    fvu: float
    """Σ‖g - ĝ‖² / Σ‖g‖² with the best codes found."""
    l0: float
    """Active directions per row; below what was asked where more do not help or `max_active` is reached."""
    n_active: Int[Tensor, " row"]
    """Active directions of every row."""
    exhaustive: bool
    """Whether all subsets of all sizes used were tried. The FVU is then the optimum, but for the last row
    served, whose gain may come in a step that no longer fits; otherwise it is an upper bound."""


def oracle(
    gradients: Float[Tensor, "row parameter"],
    directions: Float[Tensor, "direction parameter"],
    l0: float | int,
    *,
    max_active: int | None = None,
) -> Oracle:
    """Reconstruct gradients from directions, unit or not, with the best sparse codes of a mean L0.

    At most `max_active` are active in a row; by default 6, or three times the L0 if that is more.
    """
    require(l0 >= 0, "l0", "0 or more", l0)
    require(len(directions) > 0, "directions", "at least one", "none")
    g = gradients.double()
    t = directions.double() / directions.double().norm(dim=1, keepdim=True)
    return best_codes(g @ t.mT, t @ t.mT, g.square().sum(), l0, max_active)


def best_codes(
    inner: Float[Tensor, "row direction"],
    gram: Float[Tensor, "direction direction"],
    total: Tensor,
    l0: float | int,
    max_active: int | None,
) -> Oracle:
    """`oracle` from ⟨g, t⟩, ⟨t, t⟩ and Σ‖g‖²."""
    require(bool(total > 0), "gradients", "not all zero", "only zeros")
    n_rows, n = inner.shape
    largest = min(max_active or max(6, math.ceil(3 * l0)), n)
    explained, n_tried = _explained(inner, gram, largest)
    n_active = spread(explained, round(l0 * n_rows))
    reached = explained.gather(1, n_active[:, None]).sum()
    # A row at `largest` might have taken more, had that been allowed.
    within = bool((n_active <= n_tried).all()) and (
        largest == n or bool((n_active < largest).all())
    )
    return Oracle(float(1 - reached / total), float(n_active.double().mean()), n_active, within)


def _explained(
    inner: Float[Tensor, "row direction"], gram: Float[Tensor, "direction direction"], largest: int
) -> tuple[Float[Tensor, "row size"], int]:
    """Energy explained per row with 0..largest active ones; the largest size tried exhaustively."""
    explained = pursuit(inner, gram, largest).explained.clone()
    tried = 0
    for size in range(1, largest + 1):
        if math.comb(inner.shape[1], size) > MAX_SUBSETS:
            break
        every = best_subsets(inner, gram, size)
        explained[:, size] = torch.maximum(explained[:, size], every)
        tried = size
    return explained.cummax(1).values, tried


def best_subsets(
    inner: Float[Tensor, "row direction"], gram: Float[Tensor, "direction direction"], size: int
) -> Float[Tensor, " row"]:
    """Most energy explained by any subset of a size: max over S of p_S · K_S⁻¹ p_S."""
    subsets = torch.tensor(list(combinations(range(inner.shape[1]), size)), device=inner.device)
    within = gram[subsets[:, :, None], subsets[:, None, :]]
    # Pseudo-inverse: subsets of dependent directions explain what their span does.
    inverse = torch.linalg.pinv(within, hermitian=True, rtol=SMALL_PIVOT)
    best = [
        torch.einsum("rsi,sij,rsj->rs", p, inverse, p).amax(1)
        for p in (rows[:, subsets] for rows in inner.split(ROW_CHUNK))
    ]
    return torch.cat(best)


def pca_fvu(
    gradients: Float[Tensor, "row parameter"],
    n_components: int,
    l0: float | int | None = None,
    *,
    fit: Float[Tensor, "other parameter"] | None = None,
) -> float:
    """FVU of the top principal directions, uncentred, as a baseline.

    All are active, or with `l0` as many on average, with the best codes. Directions are those of the rows
    themselves, which flatters them, or of `fit`, which does them wrong if that is fewer rows than a training
    has seen.
    """
    g = gradients.double()
    directions = principal_directions(g if fit is None else fit.double(), n_components)
    return _fvu(g @ directions.mT, g.square().sum(), l0)


def pca_fvu_of_grams(
    gram: Float[Tensor, "row row"],
    n_components: int,
    l0: float | int | None = None,
    *,
    fit: Float[Tensor, "other other"] | None = None,
    cross: Float[Tensor, "row other"] | None = None,
) -> float:
    """`pca_fvu` from inner products alone, whatever the number of parameters.

    `gram` are ⟨g_i, g_j⟩ of the rows, `fit` ⟨h_i, h_j⟩ of those to take the directions Σ_j u_j h_j / √λ from, by
    default the same ones, and `cross` ⟨g_i, h_j⟩, to go with `fit`.
    """
    fit, cross = (gram if other is None else other for other in (fit, cross))
    inner = cross.double() @ principal_weights(fit.double(), n_components, fit.dtype)
    return _fvu(inner, gram.double().trace(), l0)


def _fvu(inner: Float[Tensor, "row direction"], total: Tensor, l0: float | int | None) -> float:
    """With orthonormal directions, from the inner products with them."""
    if l0 is None:
        return float(1 - inner.square().sum() / total)
    gram = torch.eye(inner.shape[1], dtype=inner.dtype, device=inner.device)
    return best_codes(inner, gram, total, l0, None).fvu


def principal_directions(
    gradients: Float[Tensor, "row parameter"], n: int
) -> Float[Tensor, "direction parameter"]:
    """The first principal directions, uncentred; fewer where gradients span fewer."""
    # The Gram matrix of the rows, where it is the smaller one, takes a tenth of the time of an SVD.
    if len(gradients) >= gradients.shape[1]:
        return torch.linalg.svd(gradients, full_matrices=False).Vh[:n]
    return (gradients.mT @ principal_weights(gradients @ gradients.mT, n, gradients.dtype)).mT


def principal_weights(
    gram: Float[Tensor, "row row"], n: int, made_in: torch.dtype
) -> Float[Tensor, "row direction"]:
    """What of every row makes each of the first principal directions."""
    values, vectors = torch.linalg.eigh(gram)
    values, vectors = values.flip(0)[:n], vectors.flip(1)[:, :n]
    # Eigenvalues below the rounding of the products are noise.
    real = values > max(SMALL_PIVOT, torch.finfo(made_in).eps) * values[0]
    return vectors[:, real] / values[real].sqrt()
