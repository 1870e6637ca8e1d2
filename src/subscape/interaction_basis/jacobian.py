"""M': the mean over data points of J J^T, J the Jacobian from a node layer to the next basis.

    M'_jk = 1/(N S_in) sum over samples, outputs (t, i) and positions s of  g_(ti)(sj) g_(ti)(sk)

Three ways: closed form for affine and MLP sections, backward passes for all others, and one plain loop
over `jacrev` as the oracle. With random signs, E[phi phi^T] = I replaces the sum over outputs.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from subscape._checks import require
from subscape._shapes import Float
from subscape.interaction_basis.chain import Section
from subscape.interaction_basis.probes import EXACT, Signs, cotangents
from subscape.interaction_basis.quadrature import GRADIENT, Baseline, Quadrature, path
from subscape.interaction_basis.sections import Affine, Mlp


@torch.no_grad()
def jacobian_gram(
    section: Section,
    into_next: Float[Tensor, "next_node next_direction"],
    activations: Iterable[Float[Tensor, "..."]],
    mean: Float[Tensor, " node"],
    *,
    signs: Signs = EXACT,
    quadrature: Quadrature = GRADIENT,
    baseline: Baseline = "mean",
) -> Float[Tensor, "node node"]:
    """M' in float64, from `activations` in batches; `signs` only for sections without a closed form."""
    total = mean.new_zeros(len(mean), len(mean), dtype=torch.float64)
    count = 0
    closed = _ClosedForm(section, into_next) if isinstance(section, Affine | Mlp) else None
    generator = torch.Generator().manual_seed(signs.seed)
    for values in activations:
        points = path(values, mean, quadrature, baseline)
        count += values.numel() // values.shape[-1]
        if closed is not None:
            closed.add(points, quadrature)
            continue
        back = [_pullback(section, p) for p in points]
        n_drawn = (signs.positions or 1) * (signs.directions or 1)
        for probes in cotangents(back[0][0], into_next, signs, generator):
            g = quadrature.mean(_pull_all(pull, probes) for _, pull in back)
            rows = g.flatten(0, -2).double()
            total += rows.mT @ rows / n_drawn
    require(count > 0, "activations", "at least one batch", "none")
    return (total if closed is None else closed.result(count)) / count


def jacobian_gram_by_loop(
    section: Section,
    into_next: Float[Tensor, "next_node next_direction"],
    activations: Iterable[Float[Tensor, "..."]],
    mean: Float[Tensor, " node"],
    *,
    quadrature: Quadrature = GRADIENT,
    baseline: Baseline = "mean",
) -> Float[Tensor, "node node"]:
    """The same, one whole Jacobian a sample. The oracle."""
    total = mean.new_zeros(len(mean), len(mean), dtype=torch.float64)
    count = 0
    for values in activations:
        for sample in values.split(1):
            jacobian = torch.func.jacrev(lambda f: section(f) @ into_next.to(f))
            g = quadrature.mean(map(jacobian, path(sample, mean, quadrature, baseline)))
            rows = g.reshape(-1, values.shape[-1]).double()
            total += rows.mT @ rows
            count += sample.numel() // sample.shape[-1]
    return total / count


def _pull_all(pull: Section, cotangents: Tensor) -> Tensor:
    with warnings.catch_warnings():
        # Fused attention runs one probe at a time backwards; that is slower and no error.
        warnings.filterwarnings("ignore", message="There is a performance drop")
        return torch.vmap(pull)(cotangents)


def _pullback(section: Section, point: Tensor) -> tuple[Tensor, Section]:
    found: tuple[Any, ...] = torch.func.vjp(section, point)
    out, pull = found[:2]
    return out, lambda cotangent: pull(cotangent)[0]


class _ClosedForm:
    """J C = A + W_in diag(slope) B with A = P C, B = W_out C; only mean slopes and products are summed."""

    def __init__(self, section: Affine | Mlp, into_next: Tensor) -> None:
        self.section = section
        c = into_next.double()
        if isinstance(section, Affine):
            self.a, self.b = section.weight.double() @ c, None
        else:
            self.a = None if section.skip is None else section.skip.double() @ c
            self.b = c if section.write is None else section.write.double() @ c
            hidden = section.read.shape[1]
            self.slope = c.new_zeros(hidden)
            self.slopes = c.new_zeros(hidden, hidden)

    def add(self, points: list[Tensor], quadrature: Quadrature) -> None:
        """Take in a batch: its points along the path."""
        if isinstance(self.section, Mlp):
            rows = quadrature.mean(map(self.section.slope, points)).flatten(0, -2).double()
            self.slope += rows.sum(0)
            self.slopes += rows.mT @ rows

    def result(self, count: int) -> Tensor:
        """The sum of J C C^T J^T over `count` data points."""
        if not isinstance(self.section, Mlp):
            assert self.a is not None
            return count * (self.a @ self.a.mT)
        assert self.b is not None
        read = self.section.read.double()
        total = read @ ((self.b @ self.b.mT) * self.slopes) @ read.mT
        if self.a is not None:
            crossed = self.a @ (self.b.mT * self.slope) @ read.mT
            total = total + count * (self.a @ self.a.mT) + crossed + crossed.mT
        return total
