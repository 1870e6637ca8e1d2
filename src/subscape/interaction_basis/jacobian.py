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
from subscape.interaction_basis.closed_form import ClosedForm
from subscape.interaction_basis.probes import Signs, cotangents
from subscape.interaction_basis.quadrature import GRADIENT, Baseline, Quadrature
from subscape.interaction_basis.sections import Affine, Mlp


@torch.no_grad()
def jacobian_gram(
    section: Section,
    into_next: Float[Tensor, "next_node next_direction"],
    activations: Iterable[Float[Tensor, "..."]],
    mean: Float[Tensor, " node"],
    *,
    signs: Signs | None = None,
    quadrature: Quadrature = GRADIENT,
    baseline: Baseline = "mean",
) -> Float[Tensor, "node node"]:
    """M' in float64, from `activations` in batches; `signs` only for sections without a closed form."""
    total = mean.new_zeros(len(mean), len(mean), dtype=torch.float64)
    count = 0
    closed = ClosedForm(section, into_next) if isinstance(section, Affine | Mlp) else None
    generator = torch.Generator().manual_seed(0 if signs is None else signs.seed)
    for values in activations:
        points = path(values, mean, quadrature, baseline)
        count += values.numel() // values.shape[-1]
        if closed is not None:
            closed.add(points, quadrature.weights)
            continue
        back = [_pullback(section, p) for p in points]
        n_drawn = 1 if signs is None else (signs.positions or 1) * (signs.directions or 1)
        for probes in cotangents(back[0][0], into_next, signs, generator):
            g = sum(
                w * _pull_all(pull, probes)
                for w, (_, pull) in zip(quadrature.weights, back, strict=True)
            )
            assert isinstance(g, Tensor)
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
            g = mean.new_zeros(())
            for w, point in zip(
                quadrature.weights, path(sample, mean, quadrature, baseline), strict=True
            ):
                jacobian = torch.func.jacrev(lambda f: section(f) @ into_next.to(f))(point)
                g = g + w * jacobian
            rows = g.reshape(-1, values.shape[-1]).double()
            total += rows.mT @ rows
            count += sample.numel() // sample.shape[-1]
    return total / count


def path(
    values: Float[Tensor, "..."],
    mean: Float[Tensor, " node"],
    quadrature: Quadrature,
    baseline: Baseline,
) -> list[Float[Tensor, "..."]]:
    """Points between the baseline and the activations."""
    start = mean.to(values) if baseline == "mean" else torch.zeros_like(mean).to(values)
    # start + 1 (values - start) would round the activations themselves.
    return [values if a == 1 else start + a * (values - start) for a in quadrature.points]


def _pull_all(pull: Section, cotangents: Tensor) -> Tensor:
    with warnings.catch_warnings():
        # Fused attention runs one probe at a time backwards; that is slower and no error.
        warnings.filterwarnings("ignore", message="There is a performance drop")
        return torch.vmap(pull)(cotangents)


def _pullback(section: Section, point: Tensor) -> tuple[Tensor, Section]:
    found: tuple[Any, ...] = torch.func.vjp(section, point)
    out, pull = found[:2]
    return out, lambda cotangent: pull(cotangent)[0]
