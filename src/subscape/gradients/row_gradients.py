"""One value type for the gradients of a batch of rows, whoever made them.

Training, measuring and encoding ask three questions of row gradients: their inner products with a
stack of directions, their squared norms, and, where it must be, the dense tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from subscape._shapes import Float
from subscape.lowrank import Stack


@runtime_checkable
class RowGradients(Protocol):
    """∇_W D of every row of a batch with respect to the target's parameters."""

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        ...

    def inner(self, stack: Stack) -> Float[Tensor, "*replica row subnetwork"]:
        """⟨g_i, v_k⟩ for every row i and direction k of a stack [*replica, subnetwork]."""
        ...

    def squared_norm(self) -> Float[Tensor, "*target row"]:
        """‖g_i‖² over all target tensors together."""
        ...

    def dense(self) -> dict[str, Float[Tensor, "..."]]:
        """g_i by parameter name, each [*target, row, *shape]."""
        ...


@dataclass(frozen=True)
class DenseRowGradients:
    """Row gradients as full vectors.

    All restarts of a stack see the same rows; several targets that are decomposed side by side have a
    leading axis, in stacks too.
    """

    flat: Float[Tensor, "*target row parameter"]
    """All target tensors flattened and concatenated, in model order."""
    shapes: Mapping[str, tuple[int, ...]]
    """Shape of every target tensor, in model order."""

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.flat.shape[-2]

    def inner(self, stack: Stack) -> Float[Tensor, "*replica row subnetwork"]:
        """⟨g_i, v_k⟩; see `RowGradients`."""
        return times_directions(self.flat, stack.flat())

    def squared_norm(self) -> Float[Tensor, "*target row"]:
        """‖g_i‖²; see `RowGradients`."""
        return self.flat.square().sum(-1)

    def dense(self) -> dict[str, Float[Tensor, "..."]]:
        """g_i by parameter name; see `RowGradients`."""
        sizes = [torch.Size(shape).numel() for shape in self.shapes.values()]
        parts = self.flat.split(sizes, dim=-1)
        return {
            name: part.unflatten(-1, shape) if shape else part.squeeze(-1)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def rows(self, index: slice | Tensor) -> DenseRowGradients:
        """The gradients of some of the rows."""
        return DenseRowGradients(self.flat[..., index, :], self.shapes)


def times_directions(
    flat: Float[Tensor, "*target row parameter"],
    directions: Float[Tensor, "*target_and_replica subnetwork parameter"],
) -> Float[Tensor, "..."]:
    """Rows times directions, [*target, *replica, row, subnetwork]."""
    # The directions of all replicas are one operand, as they share the rows.
    if directions.dim() == flat.dim():
        return flat @ directions.mT
    replicas, n = directions.shape[-3:-1]
    products = flat @ directions.flatten(-3, -2).mT
    return products.unflatten(-1, (replicas, n)).movedim(-2, -3)
