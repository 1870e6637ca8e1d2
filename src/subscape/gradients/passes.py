"""One forward pass over rows that serves any number of references, whatever the engine.

`OnePass` is the general one; here are those that take the model whole.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from subscape._shapes import Float, Int
from subscape.data import Samples
from subscape.gradients.engines import loop_products
from subscape.gradients.row_gradients import DenseRowGradients, RowGradients
from subscape.targets import Target


@runtime_checkable
class Pass(Protocol):
    """Outputs at rows, and row gradients for any ∂D/∂f there."""

    @property
    def outputs(self) -> Float[Tensor, "row *output"]:
        """f(x) at every row, without graph."""
        ...

    def gradients(
        self, output_gradient: Float[Tensor, "row *output"], *, again: bool = False
    ) -> RowGradients:
        """∇_W D = Jᵀ ∂D/∂f of every row; `again` says that others will be asked for."""
        ...


class JacobianPass:
    """Rows whose output Jacobian is known."""

    def __init__(self, target: Target, outputs: Tensor, jacobian: Tensor) -> None:
        self._target, self.outputs, self._jacobian = target, outputs, jacobian

    def gradients(self, output_gradient: Tensor, *, again: bool = False) -> DenseRowGradients:
        """See `Pass`."""
        e = output_gradient.flatten(1)[:, None].to(self._jacobian)
        return DenseRowGradients(torch.bmm(e, self._jacobian)[:, 0], self._target.shapes)


class LoopPass:
    """Row after row by plain autograd, each alone."""

    def __init__(
        self, target: Target, inputs: Samples, position: Int[Tensor, " row"] | None, outputs: Tensor
    ) -> None:
        self._target, self._inputs, self._position = target, inputs, position
        self.outputs = outputs

    def gradients(self, output_gradient: Tensor, *, again: bool = False) -> DenseRowGradients:
        """See `Pass`."""
        by_name = loop_products(self._target, self._inputs, self._position, output_gradient)
        flat = torch.cat([g.reshape(len(g), -1) for g in by_name.values()], dim=1)
        return DenseRowGradients(flat.to(self._target.like), self._target.shapes)
