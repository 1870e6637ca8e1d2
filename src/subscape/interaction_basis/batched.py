"""Operations of an exported graph in versions that take batches under `vmap`, and derivatives in forward mode."""

from __future__ import annotations

import torch
from torch import Tensor


def batch_norm(
    values: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    momentum: float,
    eps: float,
) -> tuple[Tensor]:
    """In eval mode, of one sample or any number."""
    axes = (-1,) + (1,) * (values.dim() - 2)
    scale = (variance + eps).rsqrt() if weight is None else weight * (variance + eps).rsqrt()
    out = (values - mean.view(axes)) * scale.view(axes)
    return (out if bias is None else out + bias.view(axes),)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Written out: fused kernels know neither batches of samples nor forward mode."""
    if enable_gqa:
        times = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(times, -3), value.repeat_interleave(times, -3)
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None:
        shut = torch.full_like(scores, -torch.inf)
        scores = torch.where(mask, scores, shut) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1) @ value


BATCHED = {
    torch.ops.aten.scaled_dot_product_attention.default: attention,
    torch.ops.aten.view.default: torch.ops.aten.reshape.default,
    torch.ops.aten._native_batch_norm_legit_no_training.default: batch_norm,
}
"""Operations in place of those that vmap takes one sample at a time, or not at all."""
