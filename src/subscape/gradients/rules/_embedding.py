"""Embeddings: g = Σ_t unit(id_t) ⊗ e_t."""

from __future__ import annotations

from torch import Tensor, nn

from subscape.gradients.rules.registry import register_rule
from subscape.gradients.table_gradients import IndexedGradient
from subscape.gradients.tensor_gradients import TensorGradient


def _plain(module: nn.Embedding) -> bool:
    """Neither gradients scaled by how often a token occurs, nor a table that look-ups change."""
    return not module.scale_grad_by_freq and module.max_norm is None


@register_rule(nn.Embedding, when=_plain)
def embedding(
    module: nn.Embedding, inputs: Tensor, output_gradient: Tensor
) -> dict[str, TensorGradient]:
    """Rule of a table looked up by index; the padding index gets no gradient."""
    index = inputs.flatten(1) if inputs.dim() > 1 else inputs[:, None]
    e = output_gradient.reshape(*index.shape, -1)
    if module.padding_idx is not None:
        e = e * (index != module.padding_idx)[..., None]
    return {"weight": IndexedGradient(index, e, tuple(module.weight.shape))}
