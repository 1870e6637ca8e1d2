"""A batch too large for the memory budget, as micro-batches that are made when they are asked for.

Forward, inner products with a stack are taken micro-batch by micro-batch without a graph; backward, when
∂loss/∂⟨g_i, v_k⟩ is known, every micro-batch is made once more. So memory does not grow with rows, at the price
of a second pass over the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from subscape._shapes import Float
from subscape.gradients.row_gradients import FactoredRowGradients, RowGradients
from subscape.gradients.tensor_gradients import DenseGradient
from subscape.lowrank import Layout, Stack
from subscape.lowrank.metric import Metric

Maker = Callable[[], RowGradients]

KEPT = 2**30
"""Bytes of gradients that are kept where they are asked for several times."""


def kept_if_small(makers: Sequence[Maker]) -> list[Maker]:
    """The same gradients: made now and handed out, or made anew every time if they are large."""
    first = makers[0]()
    if len(makers) * _bytes(first) > KEPT:
        return list(makers)
    kept = [first, *(make() for make in makers[1:])]
    return [lambda made=made: made for made in kept]


@dataclass(frozen=True)
class MicroBatches:
    """Row gradients of a batch in parts."""

    makers: Sequence[Maker]
    """Make the parts, the same ones at every call."""
    sizes: Sequence[int]
    """Rows of every part."""

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return sum(self.sizes)

    def inner(self, stack: Stack) -> Float[Tensor, "*replica row subnetwork"]:
        """⟨g_i, v_k⟩; see `RowGradients`."""
        products: Any = _Inner.apply(stack.weights, stack.layout, self)
        return products

    def squared_norm(self) -> Float[Tensor, " row"]:
        """‖g_i‖²; known after the first inner products, or at a pass of its own."""
        if any(i not in self._norms for i in range(len(self.makers))):
            for number in range(len(self.makers)):
                self.part(number)
        return torch.cat([self._norms[i] for i in range(len(self.makers))])

    def gram(self, other: MicroBatches | None = None) -> Float[Tensor, "row other"]:
        """⟨g_i, h_j⟩; of two micro-batches at a time, and each pair of its own only once."""
        theirs = other or self
        blocks: list[dict[int, Tensor]] = [{} for _ in self.makers]
        for i, mine in enumerate(blocks):
            one = self.part(i)
            for j in range(len(theirs.makers)):
                if other is None and j <= i:
                    mine[j] = one.gram() if j == i else blocks[j][i].mT
                else:
                    mine[j] = one.gram(theirs.part(j))
        return torch.cat([torch.cat(list(mine.values()), dim=1) for mine in blocks])

    def combined(self, weights: Float[Tensor, "mix row"]) -> Float[Tensor, "mix parameter"]:
        """Σ_i w_i g_i in full; micro-batches without weight are not made."""
        by_part = weights.split(list(self.sizes), dim=1)
        parts = [
            self.part(number).combined(part)
            for number, part in enumerate(by_part)
            if bool((part != 0).any())
        ]
        return torch.stack(parts).sum(0)

    def sum(self) -> Float[Tensor, ""]:
        """See `RowGradients`."""
        return torch.stack([self.part(i).sum() for i in range(len(self.makers))]).sum()

    def scaled(self, factor: Float[Tensor, " row"]) -> MicroBatches:
        """See `RowGradients`."""
        parts = factor.split(list(self.sizes))
        return self._each([lambda g, f=part: g.scaled(f) for part in parts])

    def in_metric(self, metric: Metric) -> MicroBatches:
        """See `RowGradients`."""
        return self._each([lambda g: g.in_metric(metric)] * len(self.makers))

    def factored(self) -> FactoredRowGradients:
        """See `RowGradients`; dense."""
        return FactoredRowGradients({name: DenseGradient(g) for name, g in self.dense().items()})

    def _each(self, changes: Sequence[Callable[[RowGradients], RowGradients]]) -> MicroBatches:
        makers = [
            lambda make=make, change=change: change(make())
            for make, change in zip(self.makers, changes, strict=True)
        ]
        return MicroBatches(makers, self.sizes)

    def dense(self) -> dict[str, Float[Tensor, "..."]]:
        """g_i by parameter name: as large as a batch in one piece."""
        parts = [make().dense() for make in self.makers]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    @property
    def flat(self) -> Float[Tensor, "row parameter"]:
        """g_i in full: as large as a batch in one piece."""
        return torch.cat([make().flat for make in self.makers])

    @cached_property
    def _norms(self) -> dict[int, Tensor]:
        return {}

    def part(self, number: int) -> RowGradients:
        """One micro-batch, made anew; its norms are kept."""
        made = self.makers[number]()
        if number not in self._norms:
            self._norms[number] = made.squared_norm()
        return made


class _Inner(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, layout: Layout, batches: MicroBatches) -> Tensor:
        ctx.save_for_backward(weights)
        ctx.layout, ctx.batches = layout, batches
        numbers = range(len(batches.makers))
        products = [batches.part(i).inner(Stack(layout, weights)) for i in numbers]
        return torch.cat(products, dim=-2)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (weights,) = ctx.saved_tensors
        total = torch.zeros_like(weights)
        by_part = grad_outputs[0].split(list(ctx.batches.sizes), dim=-2)
        for number, grad in enumerate(by_part):
            part = ctx.batches.part(number)
            leaf = weights.detach().requires_grad_(True)
            with torch.enable_grad():
                products = part.inner(Stack(ctx.layout, leaf))
            total += torch.autograd.grad(products, leaf, grad)[0]
            del part, products  # before the next one is made
        return total, None, None


def _bytes(gradients: RowGradients) -> int:
    """Memory that factored gradients hold on to."""
    storages = {}
    for tensor in gradients.factored().tensors.values():
        for values in vars(tensor).values():
            if isinstance(values, Tensor):
                storage = values.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())
