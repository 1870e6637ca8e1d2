"""The direction of the weights in which a loss falls fastest, in the metric of a decomposition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from subscape._shapes import Float
from subscape.finetuning.examples import as_examples
from subscape.finetuning.losses import Loss, as_loss, is_language_model, value_of
from subscape.finetuning.task import check_finite
from subscape.lowrank import Layout
from subscape.measures.kept import check_vocabulary
from subscape.subnetworks.decomposition import Decomposition
from subscape.targets import Outputs, Target


def downhill(
    found: Decomposition,
    model: nn.Module | Target,
    data: Any,
    loss: str | Loss | None = None,
    *,
    outputs: Outputs | None = None,
    batch_size: int = 256,
) -> dict[str, Float[Tensor, "..."]]:
    """Minus the gradient of a loss, preconditioned by the metric: −F^(−2p) ∇loss, of length 1.

        change = downhill(found, model, texts)
        with Edit(model, {name: 0.5 * d for name, d in change.items()}):
            model(inputs)

    The metric alone is used of the decomposition, and the ranks of its subnetworks, to which matrices are cut in
    the metric. Without a metric it is the plain gradient.

    Args:
        found: the decomposition.
        model: the model it was made for, or its `Target`; left as it is.
        data: inputs, or `(inputs, labels)`, as for `finetune`.
        loss: as for `finetune`.
        outputs: as for `Target`.
        batch_size: samples at once.

    Returns:
        The change of every decomposed parameter by name.

    Raises:
        ValueError: if the model is another one, or the loss is not finite.
    """
    target = model if isinstance(model, Target) else found.target_in(model, outputs=outputs)
    found.verify(target)
    examples = as_examples(data).to(target.like.device)
    check_vocabulary(target, examples.inputs)
    leaves = {n: p.detach().clone().requires_grad_(True) for n, p in target.parameters.items()}
    total = {name: torch.zeros_like(p) for name, p in leaves.items()}
    for part in examples.parts(batch_size):
        at = target.outputs(part.inputs, leaves)
        function = as_loss(loss, language=is_language_model(at, part.inputs))
        value = check_finite(value_of(function, at, part.given), None)
        slopes = torch.autograd.grad(value, list(leaves.values()))
        for name, slope in zip(leaves, slopes, strict=True):
            total[name] -= slope * len(part) / len(examples)
    metric = found.geometry.metric
    if metric is None:
        return _unit(cut_to_ranks(total, found.layout))
    metric = metric.to(target.like)
    inside = cut_to_ranks(metric.on_tensors(total), found.layout)
    return _unit(metric.on_tensors(inside))


def cut_to_ranks(change: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Every matrix cut to the rank that subnetworks have there; other tensors as they are."""
    ranks = {tensor.name: tensor.ranks for tensor in layout.tensors}
    cut = dict(change)
    for name, values in change.items():
        if values.dim() == 2:
            n = min(ranks[name])
            u, s, v = torch.linalg.svd(values, full_matrices=False)
            cut[name] = (u[:, :n] * s[:n]) @ v[:n]
    return cut


def _unit(change: Mapping[str, Tensor]) -> dict[str, Tensor]:
    length = torch.stack([d.square().sum() for d in change.values()]).sum().sqrt()
    tiny = torch.finfo(length.dtype).tiny
    return {name: d / length.clamp_min(tiny) for name, d in change.items()}
