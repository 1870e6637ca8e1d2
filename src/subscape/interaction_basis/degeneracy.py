"""How many parameters a network makes use of: by the ranks of its bases, and by neurons that fire together.

Of the three kinds of degeneracy of Bushnaq et al. (arXiv 2405.10927) two are what the bases drop: activations that
depend on each other linearly, and gradients that do. The third are neurons of an MLP whose slopes go together over
the data: a group of k acts as one linear map, which k^2 changes of its weights leave as it is, of lone neurons k.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from subscape._checks import require
from subscape._shapes import Float
from subscape.interaction_basis.basis import LayerBasis
from subscape.interaction_basis.sections import Mlp

TOGETHER = 0.99
"""Likeness of slopes from which on two neurons fire together."""


@dataclass(frozen=True)
class ParameterCount:
    """Numbers that linear maps between node layers need, with the constant as one more input."""

    all: int
    """In the widths of the node layers."""
    effective: int
    """In the ranks of their bases."""


def parameter_count(bases: Sequence[LayerBasis], *, rtol: float = 0.0) -> ParameterCount:
    """Count (inputs + 1) x outputs over all sections, in widths and in directions that count.

    Directions below `rtol` of the layer's largest importance do not count, beside those that the bases dropped.
    """
    require(0 <= rtol < 1, "rtol", "a share from 0 to below 1", rtol)
    ranks = [int((b.importance > rtol * b.importance.max()).sum()) for b in bases]
    widths = [b.width for b in bases]
    whole, effective = (
        sum((a + 1) * b for a, b in zip(n, n[1:], strict=False)) for n in (widths, ranks)
    )
    return ParameterCount(whole, effective)


@torch.no_grad()
def firing(
    section: Mlp, activations: Iterable[Float[Tensor, "..."]]
) -> Float[Tensor, "hidden hidden"]:
    """Likeness of the slopes of hidden units over data: the cosine, 1 where two fire on the same samples.

    0 for units that never fire.
    """
    total = torch.zeros(section.read.shape[1], section.read.shape[1], dtype=torch.float64)
    for values in activations:
        slope = section.slope(values).flatten(0, -2).double()
        total += (slope.mT @ slope).cpu()
    size = total.diagonal().sqrt()
    return total / (size[:, None] * size).clamp_min(torch.finfo(torch.float64).tiny)


def together(
    likeness: Float[Tensor, "hidden hidden"], least: float = TOGETHER
) -> list[tuple[int, ...]]:
    """Groups of two units or more that are linked by a likeness of at least `least`, the largest first."""
    require(0 < least <= 1, "least", "a likeness above 0, at most 1", least)
    linked = likeness >= least - 1e-12
    left, groups = set(range(len(linked))), []
    while left:
        group, new = set(), {left.pop()}
        while new:
            group |= new
            new = {int(b) for a in new for b in linked[a].nonzero()} - group
        left -= group
        groups.append(tuple(sorted(group)))
    return sorted((g for g in groups if len(g) > 1), key=lambda g: (-len(g), g))


def free_changes(groups: Sequence[Sequence[int]]) -> int:
    """Changes of weights beyond the scale of every unit that leave what groups of units do as it is."""
    return sum(len(group) * (len(group) - 1) for group in groups)
