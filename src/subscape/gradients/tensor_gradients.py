"""Row gradients of one tensor, in the form in which they come cheapest.

- `DenseGradient`: g_i itself; vectors, small kernels, replayed modules.
- `OuterGradient`: g_i = Σ_t left_it ⊗ right_it, what a linear or convolutional module gives: t runs over
  the tokens or patches of a row.
- `IndexedGradient`: the same where left_it is a unit vector, an embedding's.

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

from subscape._shapes import Float, Int
from subscape.gradients.contraction import DENSE_BUDGET, Terms, columns, terms_gram, through_factors
from subscape.lowrank import TensorLayout
from subscape.lowrank.metric import LARGEST_MODE, TensorMetric
from subscape.lowrank.tensor import compose, pair, pair_rank


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


@dataclass(frozen=True)
class IndexedGradient:
    """g_i = Σ_t unit(index_it) ⊗ right_it: rows of an embedding."""

    index: Int[Tensor, "row term"]
    """Which row of the parameter each term belongs to."""
    right: Float[Tensor, "row term rest"]
    """What is added there."""
    shape: tuple[int, ...]
    """The parameter's shape."""

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.index)

    def inner(self, tensor: TensorLayout, pieces: list[Tensor]) -> Float[Tensor, "row direction"]:
        """⟨g_i, v_k⟩; see `TensorGradient`."""
        terms, n = self._terms, len(pieces[0])
        if pair_rank(tensor) is None:
            dense = compose(tensor, pieces).flatten(2)
            here = dense[:, terms.left]  # [direction, term, rest]
            return terms.sum(torch.einsum("ktd,td->tk", here, terms.right))
        left, right = columns(pair(tensor, pieces))
        return terms.sum((left[terms.left] * (terms.right @ right)).unflatten(1, (n, -1)).sum(-1))

    def squared_norm(self) -> Float[Tensor, " row"]:
        """‖g_i‖²: terms of one index meet, others do not."""
        same = self.index[:, :, None] == self.index[:, None]
        return ((self.right @ self.right.mT) * same).sum((1, 2)).clamp_min(0)

    def gram(self, other: IndexedGradient | None = None) -> Float[Tensor, "row other"]:
        """⟨g_i, h_j⟩."""
        mine, theirs = self._terms, (other or self)._terms
        return terms_gram(
            mine,
            theirs,
            lambda at: (mine.right @ theirs.right[at].mT) * (mine.left[:, None] == theirs.left[at]),
        )

    def combined(self, weights: Float[Tensor, "mix row"]) -> Float[Tensor, "mix *shape"]:
        """Σ_i w_i g_i."""
        out = weights.new_zeros(len(weights), self.shape[0], self.right.shape[2])
        by_term = self._terms.of_rows(weights)[..., None] * self._terms.right
        return out.index_add(1, self._terms.left, by_term).view(len(weights), *self.shape)

    def dense(self) -> Float[Tensor, "row *shape"]:
        """g_i in full."""
        out = self.right.new_zeros(self.n_rows, self.shape[0], self.right.shape[2])
        at = self.index[..., None].expand_as(self.right)
        return out.scatter_add(1, at, self.right).view(self.n_rows, *self.shape)

    def sum(self) -> Float[Tensor, ""]:
        """See `TensorGradient`."""
        return self.right.sum()

    def scaled(self, factor: Float[Tensor, " row"]) -> IndexedGradient:
        """See `TensorGradient`."""
        return IndexedGradient(self.index, self.right * factor[:, None, None], self.shape)

    def in_metric(self, metric: TensorMetric) -> IndexedGradient | OuterGradient:
        """See `TensorGradient`; outer products where the metric mixes rows of the table."""
        right = metric.on_rest(self.right, self.shape) * metric.scale
        along = metric.modes[0][self.index]
        if metric.modes[0].dim() == 2:
            return OuterGradient(along, right, self.shape)
        return IndexedGradient(self.index, right * along[..., None], self.shape)

    def moments(self) -> list[Float[Tensor, "..."]]:
        """See `TensorGradient`; diagonal along the table."""
        same = (self.index[:, :, None] == self.index[:, None]).to(self.right.dtype)
        of_term = ((self.right @ self.right.mT) * same).sum(2)
        first = self.right.new_zeros(self.shape[0])
        first = first.index_add(0, self.index.flatten(), of_term.flatten())
        return [first, *rest_moments(same, self.right, self.shape)]

    @cached_property
    def _terms(self) -> Terms:
        return Terms(self.index, self.right, (self.right != 0).any(-1))


@dataclass(frozen=True)
class TiedGradient:
    """A table that is looked up and also multiplied with: an embedding tied to the output layer."""

    outer: OuterGradient
    """The product's share."""
    indexed: IndexedGradient
    """The look-up's share."""

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.outer.n_rows

    def inner(self, tensor: TensorLayout, pieces: list[Tensor]) -> Float[Tensor, "row direction"]:
        """⟨g_i, v_k⟩; see `TensorGradient`."""
        return self.outer.inner(tensor, pieces) + self.indexed.inner(tensor, pieces)

    def squared_norm(self) -> Float[Tensor, " row"]:
        """‖g_i‖² with the cross term of both shares."""
        index = self.indexed.index[:, None].expand(-1, self.outer.left.shape[1], -1)
        met = self.outer.left.gather(2, index) * (self.outer.right @ self.indexed.right.mT)
        own = self.outer.squared_norm() + self.indexed.squared_norm()
        return (own + 2 * met.sum((1, 2))).clamp_min(0)

    def gram(self, other: TiedGradient | None = None) -> Float[Tensor, "row other"]:
        """⟨g_i, h_j⟩ with the cross terms."""
        other = other or self
        own = self.outer.gram(other.outer) + self.indexed.gram(other.indexed)
        return own + _met(self.outer, other.indexed) + _met(other.outer, self.indexed).mT

    def combined(self, weights: Float[Tensor, "mix row"]) -> Float[Tensor, "mix *shape"]:
        """Σ_i w_i g_i."""
        return self.outer.combined(weights) + self.indexed.combined(weights)

    def dense(self) -> Float[Tensor, "row *shape"]:
        """g_i in full."""
        return self.outer.dense() + self.indexed.dense()

    def sum(self) -> Float[Tensor, ""]:
        """See `TensorGradient`."""
        return self.outer.sum() + self.indexed.sum()

    def scaled(self, factor: Float[Tensor, " row"]) -> TiedGradient:
        """See `TensorGradient`."""
        return TiedGradient(self.outer.scaled(factor), self.indexed.scaled(factor))

    def in_metric(self, metric: TensorMetric) -> TensorGradient:
        """See `TensorGradient`."""
        return merged([self.outer.in_metric(metric), self.indexed.in_metric(metric)])

    def moments(self) -> list[Float[Tensor, "..."]]:
        """See `TensorGradient`; diagonal along the table, with the cross terms of both shares."""
        index, right = self.indexed.index, self.indexed.right
        left, shape = self.outer.left, self.outer.shape
        mixed = self.outer.right @ right.mT  # [row, product term, look-up term]
        met = left.gather(2, index[:, None].expand(-1, left.shape[1], -1))
        between = (left * ((self.outer.right @ self.outer.right.mT) @ left)).sum((0, 1))
        crossed = 2 * (met * mixed).sum(1)
        first = between.index_add(0, index.flatten(), crossed.flatten()) + self.indexed.moments()[0]
        same = (index[:, :, None] == index[:, None]).to(right.dtype)
        together = torch.cat([torch.cat([left @ left.mT, met], 2), torch.cat([met.mT, same], 2)], 1)
        return [first, *rest_moments(together, torch.cat([self.outer.right, right], 1), shape)]


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


def _met(outer: OuterGradient, indexed: IndexedGradient) -> Float[Tensor, "row other"]:
    """⟨g_i, h_j⟩ of products with look-ups."""
    product, lookup = outer._terms, indexed._terms
    return terms_gram(
        product,
        lookup,
        lambda at: product.left[:, lookup.left[at]] * (product.right @ lookup.right[at].mT),
    )


def merged(parts: list[TensorGradient]) -> TensorGradient:
    """The sum of what several calls of a module, or several modules, give for one parameter."""
    if len(parts) == 1:
        return parts[0]
    outer = [p for p in parts if isinstance(p, OuterGradient)]
    indexed = [p for p in parts if isinstance(p, IndexedGradient)]
    if len(outer) + len(indexed) < len(parts):
        return DenseGradient(torch.stack([p.dense() for p in parts]).sum(0))
    products = (
        OuterGradient(
            torch.cat([p.left for p in outer], 1),
            torch.cat([p.right for p in outer], 1),
            outer[0].shape,
        )
        if outer
        else None
    )
    lookups = (
        IndexedGradient(
            torch.cat([p.index for p in indexed], 1),
            torch.cat([p.right for p in indexed], 1),
            indexed[0].shape,
        )
        if indexed
        else None
    )
    if products is None:
        assert lookups is not None
        return lookups
    return products if lookups is None else TiedGradient(products, lookups)
