"""Convolutions: g = Σ_s e_s ⊗ patch_s over the places s of the output, group by group.

A subclass with a `forward` of its own is taken to pad by itself, as TensorFlow's "same" does: evenly on both
sides, the odd one behind. Whether that is so shows when the rule is tried.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from subscape.gradients.rules.registry import register_rule
from subscape.gradients.tensor_gradients import DenseGradient, OuterGradient, TensorGradient

_Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


@register_rule(nn.Conv1d, nn.Conv2d, nn.Conv3d, any_forward=True)
def convolution(
    module: _Convolution, inputs: Tensor, output_gradient: Tensor
) -> dict[str, TensorGradient]:
    """Rule of convolutions in one to three dimensions, with any stride, padding, dilation, groups."""
    n_rows, groups = len(inputs), module.groups
    e = output_gradient.flatten(2)  # [row, out, place]
    patches = _patches(module, inputs, output_gradient.shape[2:])  # [row, in, kernel, place]
    shape = tuple(module.weight.shape)
    if groups == 1 and sum(_sides(shape)) * e.shape[2] < math.prod(shape):
        # Few places and a large kernel: the factors are the smaller form.
        right = patches.flatten(1, 2).mT  # [row, place, in · kernel]
        weight: TensorGradient = OuterGradient(e.mT, right, shape)
    else:
        by_group = patches.unflatten(1, (groups, -1)).flatten(2, 3)
        dense = e.unflatten(1, (groups, -1)) @ by_group.mT  # [row, group, out / group, in · kernel]
        weight = DenseGradient(dense.reshape(n_rows, *shape))
    return {"weight": weight, "bias": DenseGradient(e.sum(2))}


def _sides(shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[0], math.prod(shape[1:])


def _patches(module: _Convolution, inputs: Tensor, places: Sequence[int]) -> Tensor:
    """What every place of the output sees of the input, [row, in, kernel, place]."""
    own = type(module).forward in (nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward)
    padding = _padding(module) if own else _same(module, inputs.shape[2:], places)
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    patches = functional.pad(inputs, padding, mode=mode) if any(padding) else inputs
    n_axes = len(module.kernel_size)
    for axis in range(n_axes):
        size, dilation = module.kernel_size[axis], module.dilation[axis]
        patches = patches.unfold(2 + axis, (size - 1) * dilation + 1, module.stride[axis])
        patches = patches[..., ::dilation]
    # [row, in, *place, *kernel]: places last, so that one copy serves both products.
    order = [0, 1, *range(2 + n_axes, 2 + 2 * n_axes), *range(2, 2 + n_axes)]
    return patches.permute(order).flatten(2 + n_axes).flatten(2, 1 + n_axes)


def _same(module: _Convolution, given: Sequence[int], places: Sequence[int]) -> list[int]:
    """The padding that gives so many places of the output, in the order of `_padding`."""
    padding: list[int] = []
    for axis in reversed(range(len(module.kernel_size))):
        seen = (places[axis] - 1) * module.stride[axis] + 1
        seen += (module.kernel_size[axis] - 1) * module.dilation[axis]
        total = max(0, seen - given[axis])
        padding += [total // 2, total - total // 2]
    return padding


def _padding(module: _Convolution) -> list[int]:
    """Padding as `functional.pad` takes it: last axis first, both sides."""
    padding: list[int] = []
    for axis in reversed(range(len(module.kernel_size))):
        if module.padding == "same":
            total = module.dilation[axis] * (module.kernel_size[axis] - 1)
            padding += [total // 2, total - total // 2]
        elif module.padding == "valid":
            padding += [0, 0]
        else:
            padding += [int(module.padding[axis])] * 2
    return padding
