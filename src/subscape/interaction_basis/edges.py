"""Squared attributions between the bases of consecutive node layers.

    A_(ti),j = sum over s of the mean over the path of  d f_hat'_ti / d f_hat_sj  times f_hat_sj
    E_ij     = 1/(N S_in) sum over samples and output positions t of A_(ti),j^2

With the path of one point, the activations themselves (the published choice), an attribution is gradient times
activation; only along a path of several points are these integrated gradients, which add up to the change of
the output (see `completeness_error`).

One forward-mode pass with the tangent f_hat_sj e_j at all positions at once gives A_(ti),j for every t and
i: as many passes as input directions, however many outputs. The oracle takes one backward pass for
every output instead.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from subscape._shapes import Float
from subscape.interaction_basis.basis import LayerBasis
from subscape.interaction_basis.chain import Section
from subscape.interaction_basis.forward_mode import pushforward
from subscape.interaction_basis.probes import SPREAD
from subscape.interaction_basis.quadrature import GRADIENT, Baseline, Quadrature, path
from subscape.interaction_basis.sections import Affine, Mlp


@torch.no_grad()
def interactions(
    section: Section,
    basis: LayerBasis,
    next_basis: LayerBasis,
    activations: Iterable[Float[Tensor, "..."]],
    *,
    quadrature: Quadrature = GRADIENT,
    baseline: Baseline = "mean",
) -> Float[Tensor, "next_direction direction"]:
    """E of one pair of node layers, in float64, from `activations` of the first in batches."""
    total = basis.into.new_zeros(next_basis.rank, basis.rank)
    count = 0
    push = pushforward(section)
    for values in activations:
        coordinates = basis.encode(values)
        points = path(basis.decode(coordinates), basis.mean, quadrature, baseline)
        count += coordinates.numel() // max(basis.rank, 1)
        if isinstance(section, Affine):
            # A_tij = f_hat_tj (back W C')_ji at every point of the path.
            weight = basis.back @ section.weight.double() @ next_basis.into
            power = coordinates.double().square().flatten(0, -2).sum(0)
            total += (weight.square() * power[:, None]).mT
        elif isinstance(section, Mlp):
            slope = quadrature.mean(map(section.slope, points))
            total += _mlp(section, basis, next_basis, coordinates, slope)
        else:

            def along(tangents: Tensor, points: list[Tensor] = points) -> Tensor:
                return quadrature.mean(push(point, tangents) for point in points)

            total += _forward(along, basis, next_basis, coordinates)
    return total / count


@torch.no_grad()
def completeness_error(
    section: Section,
    basis: LayerBasis,
    next_basis: LayerBasis,
    activations: Iterable[Float[Tensor, "..."]],
    *,
    quadrature: Quadrature = GRADIENT,
    baseline: Baseline = "mean",
) -> float:
    """How far attributions are from adding up to what the section does, as a share of it (root mean square).

    Summed over all directions and positions they should give the section's output at the activations less that
    at the start of the path, in the next basis.
    """
    off = size = 0.0
    push = pushforward(section)
    for values in activations:
        coordinates = basis.encode(values)
        whole = basis.decode(coordinates)
        points = path(whole, basis.mean, quadrature, baseline)
        start = (
            basis.mean.to(values) if baseline == "mean" else torch.zeros_like(basis.mean).to(values)
        )
        change = next_basis.encode(section(whole)) - next_basis.encode(
            section(start.expand_as(whole))
        )
        step = (whole - start)[None]
        total = quadrature.mean(push(point, step)[0] for point in points) @ next_basis.into.to(
            whole
        )
        off += float((total - change).double().square().sum())
        size += float(change.double().square().sum())
    return (off / size) ** 0.5


def interactions_by_vjp(
    section: Section,
    basis: LayerBasis,
    next_basis: LayerBasis,
    activations: Iterable[Float[Tensor, "..."]],
    *,
    quadrature: Quadrature = GRADIENT,
    baseline: Baseline = "mean",
) -> Float[Tensor, "next_direction direction"]:
    """The same by one backward pass for every output position and direction. The oracle."""
    total = basis.into.new_zeros(next_basis.rank, basis.rank)
    count = 0
    for values in activations:
        coordinates = basis.encode(values)
        points = path(basis.decode(coordinates), basis.mean, quadrature, baseline)
        count += coordinates.numel() // basis.rank
        shape = next_basis.encode(section(points[0])).shape
        for position in range(shape[1]) if len(shape) == 3 else [slice(None)]:
            for direction in range(next_basis.rank):
                gradients = []
                for point in points:
                    step = torch.zeros_like(coordinates, requires_grad=True)
                    out = next_basis.encode(section(point + step @ basis.back.to(values)))
                    one = out[:, position, direction] if len(shape) == 3 else out[:, direction]
                    gradients += torch.autograd.grad(one.sum(), step)
                attribution = quadrature.mean(gradients) * coordinates
                if attribution.dim() == 3:
                    attribution = attribution.sum(1)
                total[direction] += attribution.double().square().sum(0)
    return total / count


def _forward(
    push: Section, basis: LayerBasis, next_basis: LayerBasis, coordinates: Tensor
) -> Tensor:
    """From the map of tangents [tangent, ...node] to derivatives [tangent, ...next_node]."""
    back, into_next = basis.back.to(coordinates), next_basis.into.to(coordinates)
    columns = []
    per_chunk = max(1, SPREAD // max(coordinates[..., 0].numel() * basis.width, 1))
    for some in torch.arange(basis.rank, device=coordinates.device).split(per_chunk):
        # Tangents f_hat_sj e_j, written in the coordinates of the node layer.
        tangents = torch.einsum("...j,jd->j...d", coordinates[..., some], back[some])
        columns.append((push(tangents) @ into_next).square().flatten(1, -2).double().sum(1))
    return torch.cat(columns).mT


def _mlp(
    section: Mlp, basis: LayerBasis, next_basis: LayerBasis, coordinates: Tensor, slope: Tensor
) -> Tensor:
    """J_ji = (back P C')_ji + sum over units k of (back W_in)_jk slope_k (W_out C')_ki, one j at a time."""
    back, into_next = basis.back.to(slope), next_basis.into.to(slope)
    read = back @ section.read
    write = into_next if section.write is None else section.write @ into_next
    skip = None if section.skip is None else back @ section.skip @ into_next
    columns = []
    for j in range(basis.rank):
        jacobian = (slope * read[j]) @ write
        if skip is not None:
            jacobian = jacobian + skip[j]
        attribution = jacobian * coordinates[..., j, None]
        columns.append(attribution.square().flatten(0, -2).double().sum(0))
    return torch.stack(columns, 1)
