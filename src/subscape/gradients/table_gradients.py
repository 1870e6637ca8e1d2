"""Row gradients of a table that is looked up, an embedding's, and may be multiplied with as well.

`IndexedGradient` is an `OuterGradient` whose left sides are unit vectors, kept as the places of their ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from subscape._shapes import Float, Int
from subscape.gradients.contraction import Terms, columns, terms_gram
from subscape.gradients.tensor_gradients import (
    DenseGradient,
    OuterGradient,
    TensorGradient,
    rest_moments,
)
from subscape.lowrank import TensorLayout
from subscape.lowrank.metric import TensorMetric
from subscape.lowrank.tensor import compose, pair, pair_rank


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
    if not indexed:
        return _products(outer)
    return TiedGradient(_products(outer), _lookups(indexed)) if outer else _lookups(indexed)


def _products(parts: list[OuterGradient]) -> OuterGradient:
    left, right = (torch.cat(of, 1) for of in zip(*((p.left, p.right) for p in parts), strict=True))
    return OuterGradient(left, right, parts[0].shape)


def _lookups(parts: list[IndexedGradient]) -> IndexedGradient:
    index, right = (
        torch.cat(of, 1) for of in zip(*((p.index, p.right) for p in parts), strict=True)
    )
    return IndexedGradient(index, right, parts[0].shape)
