"""Norms: scale and shift after standardising, g = Σ e ∘ x̂ and Σ e over what shares a parameter."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from subscape.gradients.rules.registry import register_rule
from subscape.gradients.tensor_gradients import DenseGradient, TensorGradient


@register_rule(nn.LayerNorm)
def layer_norm(
    module: nn.LayerNorm, inputs: Tensor, output_gradient: Tensor
) -> dict[str, TensorGradient]:
    """Rule of layer norm: parameters over the last axes."""
    standard = functional.layer_norm(inputs, module.normalized_shape, eps=module.eps)
    return _over_last_axes(standard, output_gradient, len(module.normalized_shape))


@register_rule(nn.RMSNorm)
def rms_norm(
    module: nn.RMSNorm, inputs: Tensor, output_gradient: Tensor
) -> dict[str, TensorGradient]:
    """Rule of root-mean-square norm."""
    shape = list(module.normalized_shape)
    standard = functional.rms_norm(inputs, shape, eps=module.eps)
    return _over_last_axes(standard, output_gradient, len(shape))


@register_rule(nn.GroupNorm)
def group_norm(
    module: nn.GroupNorm, inputs: Tensor, output_gradient: Tensor
) -> dict[str, TensorGradient]:
    """Rule of group norm: a parameter per channel."""
    standard = functional.group_norm(inputs, module.num_groups, eps=module.eps)
    return _over_channels(standard, output_gradient)


@register_rule(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
def batch_norm(
    module: nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d,
    inputs: Tensor,
    output_gradient: Tensor,
) -> dict[str, TensorGradient]:
    """Rule of batch norm in eval mode: a parameter per channel, fixed statistics."""
    standard = functional.batch_norm(
        inputs, module.running_mean, module.running_var, eps=module.eps
    )
    return _over_channels(standard, output_gradient)


def _over_last_axes(standard: Tensor, e: Tensor, n_axes: int) -> dict[str, TensorGradient]:
    # An axis of length 1 stands in where a row has no positions.
    scale, shift = (x.unflatten(0, (-1, 1)).flatten(1, -1 - n_axes) for x in (standard * e, e))
    return {"weight": DenseGradient(scale.sum(1)), "bias": DenseGradient(shift.sum(1))}


def _over_channels(standard: Tensor, e: Tensor) -> dict[str, TensorGradient]:
    scale, shift = (x.unsqueeze(-1).flatten(2) for x in (standard * e, e))
    return {"weight": DenseGradient(scale.sum(2)), "bias": DenseGradient(shift.sum(2))}
