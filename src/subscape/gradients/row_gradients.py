"""One value type for the gradients of a batch of rows, whoever made them.

Training, measuring and encoding ask three questions of row gradients: their inner products with a
stack of directions, their squared norms, and, where it must be, the dense tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from subscape._checks import require
from subscape._shapes import Float
from subscape.gradients.tensor_gradients import DenseGradient, TensorGradient
from subscape.lowrank import Stack
from subscape.lowrank.metric import Metric


@runtime_checkable
class RowProducts(Protocol):
    """What training asks of the gradients of a batch of rows."""

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


@runtime_checkable
class RowGradients(RowProducts, Protocol):
    """∇_W D of every row of a batch with respect to the target's parameters."""

    def gram(self, other: Any = None) -> Float[Tensor, "*target row other"]:
        """⟨g_i, h_j⟩ over all tensors together, with rows h of the same form; by default its own."""
        ...

    def combined(self, weights: Float[Tensor, "mix row"]) -> Float[Tensor, "*target mix parameter"]:
        """Σ_i w_i g_i in full, for every line of weights."""
        ...

    def sum(self) -> Float[Tensor, ""]:
        """The sum of the numbers that all gradients are made of: not finite if one of them is not."""
        ...

    def scaled(self, factor: Float[Tensor, " row"]) -> RowGradients:
        """Every g_i times a factor of its own."""
        ...

    def in_metric(self, metric: Metric) -> RowGradients:
        """g̃_i; see `lowrank.metric`."""
        ...

    def factored(self) -> FactoredRowGradients:
        """The same tensor by tensor, all rows at once."""
        ...

    def dense(self) -> dict[str, Float[Tensor, "..."]]:
        """g_i by parameter name, each [*target, row, *shape]."""
        ...

    @property
    def flat(self) -> Float[Tensor, "*target row parameter"]:
        """g_i in full: all tensors flattened and concatenated, in model order."""
        ...


@dataclass(frozen=True, repr=False)
class DenseRowGradients:
    """Row gradients as full vectors.

    All restarts of a stack see the same rows; several targets that are decomposed side by side have a
    leading axis, in stacks too.
    """

    flat: Float[Tensor, "*target row parameter"]
    """All target tensors flattened and concatenated, in model order."""
    shapes: Mapping[str, tuple[int, ...]]
    """Shape of every target tensor, in model order."""

    def __repr__(self) -> str:
        return f"DenseRowGradients({self.n_rows} rows over {len(self.shapes)} tensors)"

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

    def gram(self, other: DenseRowGradients | None = None) -> Float[Tensor, "*target row other"]:
        """⟨g_i, h_j⟩; see `RowGradients`."""
        return self.flat @ (other or self).flat.mT

    def combined(self, weights: Float[Tensor, "mix row"]) -> Float[Tensor, "*target mix parameter"]:
        """Σ_i w_i g_i in full, for every line of weights."""
        return weights @ self.flat

    def sum(self) -> Float[Tensor, ""]:
        """The sum of all entries: not finite if one is not."""
        return self.flat.sum()

    def scaled(self, factor: Float[Tensor, " row"]) -> DenseRowGradients:
        """See `RowGradients`."""
        return DenseRowGradients(self.flat * factor[:, None], self.shapes)

    def in_metric(self, metric: Metric) -> DenseRowGradients:
        """See `RowGradients`."""
        return DenseRowGradients(self.factored().in_metric(metric).flat, self.shapes)

    def factored(self) -> FactoredRowGradients:
        """The same tensor by tensor."""
        return FactoredRowGradients({name: DenseGradient(g) for name, g in self.dense().items()})

    def rows(self, index: slice | Tensor) -> DenseRowGradients:
        """The gradients of some of the rows."""
        return DenseRowGradients(self.flat[..., index, :], self.shapes)


@dataclass(frozen=True, repr=False)
class FactoredRowGradients:
    """Row gradients tensor by tensor, each in the form in which it comes cheapest."""

    tensors: Mapping[str, TensorGradient]
    """By parameter name, in model order."""

    def __repr__(self) -> str:
        return f"FactoredRowGradients({self.n_rows} rows over {len(self.tensors)} tensors)"

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return next(iter(self.tensors.values())).n_rows

    def inner(self, stack: Stack) -> Float[Tensor, "*replica row subnetwork"]:
        """⟨g_i, v_k⟩; see `RowGradients`."""
        lead = stack.weights.shape[:-1]
        one_axis = Stack(stack.layout, stack.weights.reshape(-1, stack.weights.shape[-1]))
        pieces = one_axis.pieces()
        first, *others = [
            self.tensors[t.name].inner(t, pieces[t.name]) for t in stack.layout.tensors
        ]
        products = sum(others, first)
        return products.unflatten(1, lead).movedim(0, -2)

    def squared_norm(self) -> Float[Tensor, " row"]:
        """‖g_i‖²; see `RowGradients`."""
        first, *others = [g.squared_norm() for g in self.tensors.values()]
        return sum(others, first)

    def combined(self, weights: Float[Tensor, "mix row"]) -> Float[Tensor, "mix parameter"]:
        """Σ_i w_i g_i in full, for every line of weights."""
        parts = [g.combined(weights).reshape(len(weights), -1) for g in self.tensors.values()]
        return torch.cat(parts, dim=1)

    def sum(self) -> Float[Tensor, ""]:
        """The sum of the numbers that all gradients are made of: not finite if one of them is not."""
        return torch.stack([g.sum() for g in self.tensors.values()]).sum()

    def gram(self, other: FactoredRowGradients | None = None) -> Float[Tensor, "row other"]:
        """⟨g_i, h_j⟩; see `RowGradients`."""
        theirs = (other or self).tensors
        first, *others = [g.gram(theirs[name]) for name, g in self.tensors.items()]
        return sum(others, first)

    def scaled(self, factor: Float[Tensor, " row"]) -> FactoredRowGradients:
        """See `RowGradients`."""
        return FactoredRowGradients({name: g.scaled(factor) for name, g in self.tensors.items()})

    def in_metric(self, metric: Metric) -> FactoredRowGradients:
        """See `RowGradients`."""
        return FactoredRowGradients({
            name: g.in_metric(metric.tensors[name]) for name, g in self.tensors.items()
        })

    def factored(self) -> FactoredRowGradients:
        """Itself."""
        return self

    def dense(self) -> dict[str, Float[Tensor, "..."]]:
        """g_i by parameter name; see `RowGradients`."""
        return {name: g.dense() for name, g in self.tensors.items()}

    @property
    def flat(self) -> Float[Tensor, "row parameter"]:
        """All tensors in full, flattened and concatenated, in model order."""
        return torch.cat([g.reshape(self.n_rows, -1) for g in self.dense().values()], dim=1)


def of_tensors(gradients: RowGradients, names: Sequence[str]) -> RowGradients:
    """The share of some tensors in row gradients; the gradients themselves where these are all of them."""
    if isinstance(gradients, DenseRowGradients):
        if list(gradients.shapes) == list(names):
            return gradients
        dense = gradients.dense()
        lead = gradients.flat.shape[:-1]
        flat = torch.cat([dense[name].reshape(*lead, -1) for name in names], dim=-1)
        return DenseRowGradients(flat, {name: gradients.shapes[name] for name in names})
    return FactoredRowGradients({name: gradients.factored().tensors[name] for name in names})


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


def check_finite(gradients: Mapping[str, Tensor]) -> None:
    """Refuse gradients that are not finite, naming the tensors."""
    bad = [name for name, g in gradients.items() if not torch.isfinite(g).all()]
    require(
        not bad,
        "gradients",
        "finite row gradients",
        f"NaN or infinite values in {bad}",
        "Check the inputs, the divergence (kl takes logits) and the model's dtype.",
    )
