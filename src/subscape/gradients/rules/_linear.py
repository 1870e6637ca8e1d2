"""Linear maps: g = Σ_t e_t ⊗ a_t over the positions t of a row."""

from __future__ import annotations

from torch import Tensor, nn

from subscape.gradients.rules.registry import register_rule
from subscape.gradients.tensor_gradients import DenseGradient, OuterGradient, TensorGradient


@register_rule(nn.Linear)
def linear(module: nn.Linear, inputs: Tensor, output_gradient: Tensor) -> dict[str, TensorGradient]:
    """Rule of y = W a + b with W [out, in]."""
    a, e = _positions(inputs), _positions(output_gradient)
    return {
        "weight": OuterGradient(e, a, tuple(module.weight.shape)),
        "bias": DenseGradient(e.sum(1)),
    }


@register_rule("transformers.pytorch_utils.Conv1D")
def transposed_linear(
    module: nn.Module, inputs: Tensor, output_gradient: Tensor
) -> dict[str, TensorGradient]:
    """Rule of Hugging Face's `Conv1D`, y = a W + b with W [in, out]."""
    a, e = _positions(inputs), _positions(output_gradient)
    return {
        "weight": OuterGradient(a, e, (a.shape[2], e.shape[2])),
        "bias": DenseGradient(e.sum(1)),
    }


def _positions(values: Tensor) -> Tensor:
    """[row, *position, size] as [row, position, size]."""
    return values[:, None] if values.dim() == 2 else values.flatten(1, -2)
