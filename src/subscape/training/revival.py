"""Replace subnetworks that are of little use by directions that the gradients call for.

A run can end with two circuits merged in one subnetwork while another is dead, near-dead or a copy:
a local minimum that gradient steps do not leave. Now and then we therefore compare, on fresh rows,

- the use of subnetwork k: by how much the error grows when it is taken away,
      Δ_k = Σ_rows (‖e + s_k v_k‖² − ‖e‖²) = Σ_rows (2 s_k e·v_k + s_k²),      e = g − ĝ, ‖v_k‖ = 1;
- the gain of a new direction u: by how much the error would fall if it were active in its fair share of
  rows, Γ(u) = the sum of the largest k·rows of (e·u)²; candidates are residuals of single rows.

and replace k by u where Γ(u) is well above Δ_k. A dead subnetwork has Δ = 0 and always goes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from subscape._shapes import Float, Int
from subscape.gradients import DenseRowGradients
from subscape.lowrank import Stack
from subscape.lowrank.project import project
from subscape.lowrank.stack import unit
from subscape.subnetworks.objective import reconstruct

N_CANDIDATES = 16
"""Residual rows tried as new directions, per replacement."""
MARGIN = 2.0
"""A new direction must promise this many times the use of the subnetwork that it replaces."""
MAX_SHARE = 0.1
"""Share of the subnetworks replaced at one time at most (but at least one)."""


class Replacements(NamedTuple):
    """Which subnetworks to replace, and by what."""

    replica: Int[Tensor, " replaced"]
    """Replica of each."""
    subnetwork: Int[Tensor, " replaced"]
    """Index of each within its replica."""
    weights: Float[Tensor, "replaced size"]
    """Pieces of the new unit directions."""


@torch.no_grad()
def replacements(
    gradients: DenseRowGradients,
    encoder: Stack,
    decoder: Stack,
    active_fraction: float,
    picks: Float[Tensor, "replica draw"],
) -> Replacements:
    """Choose subnetworks to replace and directions to put in their place.

    Args:
        gradients: fresh rows, many more than a training batch where that is cheap.
        encoder: V_in, [replica, subnetwork].
        decoder: V_out, [replica, subnetwork].
        active_fraction: k.
        picks: uniform random numbers, `N_CANDIDATES` for each replacement, by replica.

    Returns:
        The replacements.
    """
    found = reconstruct(gradients, encoder, decoder, active_fraction)
    kept = found.coefficients * found.active
    directions = decoder.flat()
    residual = gradients.flat - kept @ directions
    use = (2 * kept * (residual @ directions.mT) + kept.square()).sum(-2)
    fair = max(1, round(active_fraction * residual.shape[-2]))
    order = use.argsort(dim=-1)
    replicas, indices, news = [], [], []
    for turn, draws in enumerate(picks.split(N_CANDIDATES, dim=-1)):
        candidate, gain = _best_candidate(residual, draws, fair)
        worst = order[:, turn]
        better = gain > MARGIN * use.gather(-1, worst[:, None])[:, 0].clamp_min(0)
        if not better.any():
            break
        where = better.nonzero()[:, 0]
        replicas.append(where)
        indices.append(worst[where])
        news.append(candidate[where])
        residual = _without(residual, candidate, fair)
    if not news:
        empty = torch.zeros(0, dtype=torch.long)
        return Replacements(empty, empty, encoder.weights[0, :0])
    stack = unit(project(decoder.layout, torch.cat(news)))
    return Replacements(torch.cat(replicas), torch.cat(indices), stack.weights)


def n_replaced_at_most(n_subnetworks: int) -> int:
    """How many subnetworks of a replica may be replaced at one time."""
    return max(1, int(MAX_SHARE * n_subnetworks))


def _best_candidate(residual: Tensor, draws: Tensor, fair: int) -> tuple[Tensor, Tensor]:
    """Of residual rows drawn by their square, the direction [replica, parameter] of largest Γ."""
    square = residual.square().sum(-1)
    cumulative = square.cumsum(-1)
    at = torch.searchsorted(cumulative, draws.to(cumulative) * cumulative[:, -1:])
    at = at.clamp_max(square.shape[-1] - 1)
    rows = residual.gather(1, at[..., None].expand(-1, -1, residual.shape[-1]))
    tiny = torch.finfo(rows.dtype).tiny
    rows = rows / rows.norm(dim=-1, keepdim=True).clamp_min(tiny)
    gains = (residual @ rows.mT).square().topk(fair, dim=1).values.sum(1)
    gain, best = gains.max(-1)
    return rows[torch.arange(len(rows)), best], gain


def _without(residual: Tensor, direction: Tensor, fair: int) -> Tensor:
    """The residual after `direction` has explained its fair share of rows."""
    along = (residual @ direction[..., None])[..., 0]
    cut = along.abs().topk(fair, dim=-1).values[:, -1:]
    return residual - (along * (along.abs() >= cut))[..., None] * direction[:, None]
