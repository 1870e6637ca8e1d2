"""Row gradients of one tensor, in the form in which they come cheapest.

- `DenseGradient`: g_i itself; vectors, small kernels, replayed modules.
- `OuterGradient`: g_i = Σ_t left_it ⊗ right_it, what a linear or convolutional module gives: t runs over
  the tokens or patches of a row.
- `IndexedGradient`: the same where left_it is a unit vector, an embedding's.

All answer the same questions. Contracting with low-rank directions goes through the factors, at
T·K·r (d_0 + d_1) multiplications a row, or through the dense gradient, at K·d_0·d_1; sizes decide.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from subscape._shapes import Bool, Float, Int
from subscape.lowrank import TensorLayout
from subscape.lowrank.tensor import Pair, compose, composing_cost, pair, pair_rank

DENSE_BUDGET = 512 * 2**20
"""Bytes of dense gradients, or of dense directions, of one tensor above which factors are used instead."""
BLOCK_ENTRIES = 2**24
"""Inner products of terms with terms that are made at a time."""
ENTRY_COST = 150
"""What one entry of an intermediate [token, subnetwork, rank] costs beside the products that make it, in
multiplications: it is written and read a few times (measured on a CPU; benchmarks/contraction.py)."""


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

    def gram(self) -> Float[Tensor, "row row"]:
        """⟨g_i, g_j⟩ in this tensor."""
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

    def gram(self) -> Float[Tensor, "row row"]:
        """⟨g_i, g_j⟩."""
        return self._flat @ self._flat.mT

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

    @property
    def _flat(self) -> Tensor:
        return self.values.reshape(len(self.values), -1)


class Terms:
    """The terms left_t ⊗ right_t of all rows one after the other, without those that are zero.

    Args:
        left: [row, term, d_0], or an index [row, term] of the unit vector it is.
        right: [row, term, d_1].
        alive: terms that are not zero, [row, term].
    """

    def __init__(self, left: Tensor, right: Tensor, alive: Bool[Tensor, "row term"]) -> None:
        self.n_rows, n_terms = alive.shape
        self.left, self.right = left.flatten(0, 1), right.flatten(0, 1)
        self._row: Tensor | None = None
        # A causal model's row depends on the tokens before it only, a padded one's on real tokens.
        if int(alive.sum()) < 7 / 8 * alive.numel():
            index = alive.flatten().nonzero()[:, 0]
            self.left, self.right = self.left[index], self.right[index]
            self._row = index.div(n_terms, rounding_mode="floor")

    def __len__(self) -> int:
        return len(self.right)

    def sum(self, values: Float[Tensor, "term direction"]) -> Float[Tensor, "row direction"]:
        """Add up the terms of every row."""
        if self._row is None:
            return values.unflatten(0, (self.n_rows, -1)).sum(1)
        out = values.new_zeros(self.n_rows, values.shape[1])
        return out.index_add(0, self._row, values)

    def of_rows(self, weights: Float[Tensor, "mix row"]) -> Float[Tensor, "mix term"]:
        """What is given by row, by term."""
        if self._row is None:
            return weights.repeat_interleave(len(self) // self.n_rows, dim=1)
        return weights[:, self._row]


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
        left, right = _columns(pair(tensor, pieces))
        products = (terms.left @ left) * (terms.right @ right)
        return terms.sum(products.unflatten(1, (n, -1)).sum(-1))

    def squared_norm(self) -> Float[Tensor, " row"]:
        """‖g_i‖², without forming g_i where a row has few terms."""
        n_terms, first, rest = self.left.shape[1], self.left.shape[2], self.right.shape[2]
        if "_dense_gradient" in self.__dict__ or n_terms * (first + rest) > first * rest:
            return self._dense_gradient.squared_norm()
        products = (self.left @ self.left.mT) * (self.right @ self.right.mT)
        return products.sum((1, 2)).clamp_min(0)

    def gram(self) -> Float[Tensor, "row row"]:
        """⟨g_i, g_j⟩."""
        terms = self._terms
        through_terms = len(terms) ** 2 * (self.left.shape[2] + self.right.shape[2])
        fits = self.n_rows * math.prod(self.shape) * self.left.element_size() <= DENSE_BUDGET
        if fits and through_terms > self.n_rows**2 * math.prod(self.shape):
            return self._dense_gradient.gram()
        return _gram(
            terms,
            terms,
            lambda at: (terms.left @ terms.left[at].mT) * (terms.right @ terms.right[at].mT),
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
        left, right = _columns(pair(tensor, pieces))
        return terms.sum((left[terms.left] * (terms.right @ right)).unflatten(1, (n, -1)).sum(-1))

    def squared_norm(self) -> Float[Tensor, " row"]:
        """‖g_i‖²: terms of one index meet, others do not."""
        same = self.index[:, :, None] == self.index[:, None]
        return ((self.right @ self.right.mT) * same).sum((1, 2)).clamp_min(0)

    def gram(self) -> Float[Tensor, "row row"]:
        """⟨g_i, g_j⟩."""
        terms = self._terms
        return _gram(
            terms,
            terms,
            lambda at: (terms.right @ terms.right[at].mT) * (terms.left[:, None] == terms.left[at]),
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

    def gram(self) -> Float[Tensor, "row row"]:
        """⟨g_i, g_j⟩ with the cross terms."""
        product, lookup = self.outer._terms, self.indexed._terms
        cross = _gram(
            product,
            lookup,
            lambda at: product.left[:, lookup.left[at]] * (product.right @ lookup.right[at].mT),
        )
        return self.outer.gram() + self.indexed.gram() + cross + cross.mT

    def combined(self, weights: Float[Tensor, "mix row"]) -> Float[Tensor, "mix *shape"]:
        """Σ_i w_i g_i."""
        return self.outer.combined(weights) + self.indexed.combined(weights)

    def dense(self) -> Float[Tensor, "row *shape"]:
        """g_i in full."""
        return self.outer.dense() + self.indexed.dense()

    def sum(self) -> Float[Tensor, ""]:
        """See `TensorGradient`."""
        return self.outer.sum() + self.indexed.sum()


def merged(parts: list[TensorGradient]) -> TensorGradient:
    """The sum of what several calls of a module, or several modules, give for one parameter.

    Args:
        parts: at least one.

    Returns:
        One gradient.
    """
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


def through_factors(
    tensor: TensorLayout, n_directions: int, n_rows: int, n_terms: int, element_size: int
) -> bool:
    """Whether low-rank directions are contracted with factors rather than with dense gradients.

    Args:
        tensor: the parameter and its ranks.
        n_directions: how many directions.
        n_rows: how many rows.
        n_terms: terms of all rows together.
        element_size: bytes of an entry.

    Returns:
        True for factors: the cheaper way by its multiplications, or the only one within `DENSE_BUDGET`.
    """
    rank = pair_rank(tensor)
    if rank is None:
        return False
    largest = max(n_rows, n_directions) * tensor.numel * element_size
    if largest > DENSE_BUDGET:
        return True
    first = tensor.shape[0]
    rest = tensor.numel // first
    factors = n_terms * n_directions * rank * (first + rest + ENTRY_COST)
    dense = (n_terms + n_rows * n_directions) * tensor.numel + composing_cost(tensor, n_directions)
    return factors < dense


def _gram(
    first: Terms, second: Terms, products: Callable[[Tensor], Tensor]
) -> Float[Tensor, "row row"]:
    """Sums over the terms of both rows, some terms of the second at a time.

    Args:
        first: terms of the rows i.
        second: terms of the rows j.
        products: inner products of all terms of the first with some of the second.

    Returns:
        One number per pair of rows.
    """
    step = max(1, BLOCK_ENTRIES // max(1, len(first)))
    places = torch.arange(len(second), device=second.right.device).split(step)
    return second.sum(torch.cat([first.sum(products(at)) for at in places], dim=1).mT).mT


def _columns(thin: Pair) -> tuple[Tensor, Tensor]:
    """Left and right [direction, size, rank] as matrices [size, direction · rank]."""
    left, right = (side.movedim(1, 0).flatten(1) for side in thin)
    return left, right
