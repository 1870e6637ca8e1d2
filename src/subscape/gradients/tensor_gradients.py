"""Row gradients of one tensor, in the form in which they come cheapest.

- `DenseGradient`: g_i itself; vectors, small kernels, replayed modules.
- `OuterGradient`: g_i = Σ_t left_it ⊗ right_it, what a linear or convolutional module gives: t runs over
  the tokens or patches of a row.
- `table_gradients`: the same where left_it is a unit vector, an embedding's.

All answer the same questions; `contraction` says how sums of outer products meet low-rank directions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from subscape._shapes import Float
from subscape.gradients.contraction import DENSE_BUDGET, Terms, columns, terms_gram, through_factors
from subscape.lowrank import TensorLayout
from subscape.lowrank.metric import LARGEST_MODE, TensorMetric
from subscape.lowrank.tensor import compose, pair


@runtime_checkable
class TensorGradient(Protocol):
    """∂D/∂W of every row for one parameter."""

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        ...

    def inner(self, tensor: TensorLayout, pieces: list[Tensor]) -> Float[Tensor, "row direction"]:
        """⟨g_i, v_k⟩ with directions given by their pieces, [direction, *piece]."""
        ...

    def squared_norm(self) -> Float[Tensor, " row"]:
        """‖g_i‖² in this tensor."""
        ...

    def gram(self, other: Any = None) -> Float[Tensor, "row other"]:
        """⟨g_i, h_j⟩ in this tensor, with rows h of the same form; by default its own."""
        ...

    def combined(self, weights: Float[Tensor, "mix row"]) -> Float[Tensor, "mix *shape"]:
        """Σ_i w_i g_i, dense, for every line of weights."""
        ...

    def dense(self) -> Float[Tensor, "row *shape"]:
        """g_i in full."""
        ...

    def sum(self) -> Float[Tensor, ""]:
        """The sum of the numbers it is made of: not finite if one of them is not."""
        ...

    def scaled(self, factor: Float[Tensor, " row"]) -> TensorGradient:
        """Every g_i times a factor of its own."""
        ...

    def in_metric(self, metric: TensorMetric) -> TensorGradient:
        """g̃_i, in the same form; see `lowrank.metric`."""
        ...

    def moments(self) -> list[Float[Tensor, "..."]]:
        """Σ_i G_i(m) G_i(m)ᵀ of every mode m, [size, size], or its diagonal [size] where it is large."""
        ...


@dataclass(frozen=True)
class DenseGradient:
    """Row gradients of one tensor in full."""

    values: Float[Tensor, "row *shape"]
    """g_i."""

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.values)

    def inner(self, tensor: TensorLayout, pieces: list[Tensor]) -> Float[Tensor, "row direction"]:
        """⟨g_i, v_k⟩; see `TensorGradient`."""
        return self._flat @ compose(tensor, pieces).reshape(len(pieces[0]), -1).mT

    def squared_norm(self) -> Float[Tensor, " row"]:
        """‖g_i‖²."""
        return torch.linalg.vector_norm(self._flat, dim=1).square()

    def gram(self, other: DenseGradient | None = None) -> Float[Tensor, "row other"]:
        """⟨g_i, h_j⟩."""
        return self._flat @ (other or self)._flat.mT

    def combined(self, weights: Float[Tensor, "mix row"]) -> Float[Tensor, "mix *shape"]:
        """Σ_i w_i g_i."""
        return (
            (weights @ self._flat)
            .unflatten(1, self.values.shape[1:] or (1,))
            .view(len(weights), *self.values.shape[1:])
        )

    def dense(self) -> Float[Tensor, "row *shape"]:
        """g_i in full."""
        return self.values

    def sum(self) -> Float[Tensor, ""]:
        """See `TensorGradient`."""
        return self.values.sum()

    def scaled(self, factor: Float[Tensor, " row"]) -> DenseGradient:
        """See `TensorGradient`."""
        return DenseGradient(self.values * factor.view(-1, *[1] * (self.values.dim() - 1)))

    def in_metric(self, metric: TensorMetric) -> DenseGradient:
        """See `TensorGradient`."""
        values = self.values * metric.scale
        for mode in range(self.values.dim() - 1):
            values = metric.along(mode, values.movedim(mode + 1, -1)).movedim(-1, mode + 1)
        return DenseGradient(values)

    def moments(self) -> list[Float[Tensor, "..."]]:
        """See `TensorGradient`."""
        unfolded = [self.values.movedim(m, -1).flatten(0, -2) for m in range(1, self.values.dim())]
        return [second_moment(u, u) for u in unfolded]

    @property
    def _flat(self) -> Tensor:
        return self.values.reshape(len(self.values), -1)


@dataclass(frozen=True)
class OuterGradient:
    """g_i = Σ_t left_it ⊗ right_it, reshaped to the parameter."""

    left: Float[Tensor, "row term first"]
    """Along the parameter's first mode."""
    right: Float[Tensor, "row term rest"]
    """Along its other modes, flattened."""
    shape: tuple[int, ...]
    """The parameter's shape."""

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.left)

    def inner(self, tensor: TensorLayout, pieces: list[Tensor]) -> Float[Tensor, "row direction"]:
        """⟨g_i, v_k⟩; see `TensorGradient`."""
        terms, n = self._terms, len(pieces[0])
        if not through_factors(tensor, n, self.n_rows, len(terms), self.left.element_size()):
            return self._dense_gradient.inner(tensor, pieces)
        left, right = columns(pair(tensor, pieces))
        products = (terms.left @ left) * (terms.right @ right)
        return terms.sum(products.unflatten(1, (n, -1)).sum(-1))

    def squared_norm(self) -> Float[Tensor, " row"]:
        """‖g_i‖², without forming g_i where a row has few terms."""
        n_terms, first, rest = self.left.shape[1], self.left.shape[2], self.right.shape[2]
        if "_dense_gradient" in self.__dict__ or n_terms * (first + rest) > first * rest:
            return self._dense_gradient.squared_norm()
        products = (self.left @ self.left.mT) * (self.right @ self.right.mT)
        return products.sum((1, 2)).clamp_min(0)

    def gram(self, other: OuterGradient | None = None) -> Float[Tensor, "row other"]:
        """⟨g_i, h_j⟩."""
        other = other or self
        mine, theirs = self._terms, other._terms
        through_terms = len(mine) * len(theirs) * (self.left.shape[2] + self.right.shape[2])
        size = math.prod(self.shape)
        if through_terms > self.n_rows * other.n_rows * size:
            fitting = max(1, DENSE_BUDGET // (size * self.left.element_size()))
            lines = [
                torch.cat(
                    [a._dense_gradient.gram(b._dense_gradient) for b in other._parts(fitting)], 1
                )
                for a in self._parts(fitting)
            ]
            return torch.cat(lines)
        return terms_gram(
            mine,
            theirs,
            lambda at: (mine.left @ theirs.left[at].mT) * (mine.right @ theirs.right[at].mT),
        )

    def combined(self, weights: Float[Tensor, "mix row"]) -> Float[Tensor, "mix *shape"]:
        """Σ_i w_i g_i."""
        by_term = self._terms.of_rows(weights)[..., None]
        mixed = (self._terms.left * by_term).mT @ self._terms.right
        return mixed.view(len(weights), *self.shape)

    def dense(self) -> Float[Tensor, "row *shape"]:
        """g_i in full."""
        return self._dense_gradient.values

    def sum(self) -> Float[Tensor, ""]:
        """See `TensorGradient`."""
        return self.left.sum() + self.right.sum()

    def scaled(self, factor: Float[Tensor, " row"]) -> OuterGradient:
        """See `TensorGradient`."""
        return OuterGradient(self.left * factor[:, None, None], self.right, self.shape)

    def in_metric(self, metric: TensorMetric) -> OuterGradient:
        """See `TensorGradient`."""
        left = metric.along(0, self.left) * metric.scale
        return OuterGradient(left, metric.on_rest(self.right, self.shape), self.shape)

    def moments(self) -> list[Float[Tensor, "..."]]:
        """See `TensorGradient`."""
        first = second_moment((self.right @ self.right.mT) @ self.left, self.left)
        return [first, *rest_moments(self.left @ self.left.mT, self.right, self.shape)]

    def _parts(self, n: int) -> list[OuterGradient]:
        """At most n rows each, so that dense they fit."""
        if n >= self.n_rows:
            return [self]
        parts = zip(self.left.split(n), self.right.split(n), strict=True)
        return [OuterGradient(left, right, self.shape) for left, right in parts]

    @cached_property
    def _terms(self) -> Terms:
        alive = (self.left != 0).any(-1) & (self.right != 0).any(-1)
        return Terms(self.left, self.right, alive)

    @cached_property
    def _dense_gradient(self) -> DenseGradient:
        return DenseGradient((self.left.mT @ self.right).view(self.n_rows, *self.shape))


def second_moment(
    one: Float[Tensor, "*row size"], other: Float[Tensor, "*row size"]
) -> Float[Tensor, "..."]:
    """Σ_rows one ⊗ other, [size, size], or its diagonal where the size is large."""
    one, other = one.flatten(0, -2), other.flatten(0, -2)
    return (one * other).sum(0) if one.shape[1] > LARGEST_MODE else one.mT @ other


def rest_moments(
    between: Float[Tensor, "row term term"],
    right: Float[Tensor, "row term rest"],
    shape: Sequence[int],
) -> list[Float[Tensor, "..."]]:
    """Second moments of all modes but the first, from the inner products of the terms' left sides."""
    whole = right.unflatten(-1, tuple(shape[1:]))
    weighed = (between @ right).unflatten(-1, tuple(shape[1:]))
    return [
        second_moment(weighed.movedim(mode + 1, -1), whole.movedim(mode + 1, -1))
        for mode in range(1, len(shape))
    ]
