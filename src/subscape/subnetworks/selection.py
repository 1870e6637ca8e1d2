"""Batch top-k: which (row, subnetwork) pairs of a batch are active."""

from __future__ import annotations

import numpy
import torch
from torch import Tensor

from subscape._checks import problem
from subscape._shapes import Bool, Float


def check_active_fraction(k: float) -> None:
    """Refuse a fraction outside (0, 1].

    Args:
        k: share of the (row, subnetwork) pairs of a batch that stay active.

    Raises:
        ValueError: if it is out of range.
    """
    if not 0 < k <= 1:
        raise ValueError(
            problem(
                "active_fraction",
                "a share in (0, 1] of all (row, subnetwork) pairs",
                repr(k),
                "0.1 keeps a tenth of the coefficients of a batch.",
            )
        )


def n_active(k: float, n_pairs: int) -> int:
    """How many of `n_pairs` stay active: round(k · n_pairs) exactly, at least 1."""
    return max(1, round(k * n_pairs))


def batch_top_k(
    coefficients: Float[Tensor, "*replica row subnetwork"], k: float
) -> Bool[Tensor, "*replica row subnetwork"]:
    """Mask of the round(k·N) largest |coefficients| of a batch (at least 1), over rows × subnetworks.

    Exactly that many in every replica: ties at the cut are broken by order, row before row and
    subnetwork before subnetwork. (The paper keeps all above a threshold, the authors' code int(k·N)+1.)

    Args:
        coefficients: what the encoder makes of the rows' gradients.
        k: the share to keep, in (0, 1].

    Returns:
        The mask.
    """
    size = coefficients.detach().flatten(-2).abs()
    keep = n_active(k, size.shape[-1])
    if keep == size.shape[-1]:
        return torch.ones_like(coefficients, dtype=torch.bool)
    cut = _kth_largest(size, keep)
    mask = size >= cut
    surplus = mask.sum(-1) - keep
    if surplus.any():  # ties at the cut: keep only the first of them
        tied = size == cut
        room = keep - (size > cut).sum(-1, keepdim=True)
        mask = (size > cut) | (tied & (tied.cumsum(-1) <= room))
    return mask.view(coefficients.shape)


def _kth_largest(values: Tensor, k: int) -> Tensor:
    """The k-th largest value along the last axis, which is kept with length 1."""
    if values.device.type == "cpu" and values.dtype in (torch.float32, torch.float64):
        # NumPy's partial sort takes a tenth of the time of topk on a CPU.
        at = values.shape[-1] - k
        return torch.from_numpy(numpy.partition(values.numpy(), at, axis=-1)[..., at : at + 1])
    return values.topk(k, dim=-1, sorted=False).values.amin(-1, keepdim=True)
