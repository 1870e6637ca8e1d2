"""Replace subnetworks that are of little use by directions that the gradients call for.

A run can end with two circuits merged in one subnetwork while another is dead, near-dead or a copy:
a local minimum that gradient steps do not leave. Now and then we therefore compare, on fresh rows,

- the use of subnetwork k: by how much the error grows when it is taken away,
      Δ_k = Σ_rows (‖e + s_k v_k‖² − ‖e‖²) = Σ_rows (2 s_k e·v_k + s_k²),      e = g − ĝ, ‖v_k‖ = 1;
- the gain of a new direction u: by how much the error would fall if it were active in its fair share of
  rows, Γ(u) = the sum of the largest k·rows of (e·u)²; candidates are residuals of single rows. The row
  that u comes from is left out: (e·u)² is all of its ‖e‖², whatever u is worth to other rows, and large
  rows are drawn most, so that with it chance directions push out subnetworks that have a circuit.

and replace k by u where Γ(u) is well above Δ_k. A dead subnetwork has Δ = 0 and always goes.

A group of directions is judged and replaced as one: by u, and by what is left of the rows that u explains.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from subscape._shapes import Float, Int
from subscape.gradients import RowGradients
from subscape.lowrank.energy import through_gram
from subscape.lowrank.project import project
from subscape.lowrank.stack import unit
from subscape.subnetworks.dictionary import Dictionary
from subscape.training.residual import Residual, residual_of, residual_row

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
    """Index of each within its replica: a subnetwork, or a direction of a group."""
    weights: Float[Tensor, "replaced size"]
    """Pieces of the new unit directions."""


@torch.no_grad()
def replacements(
    gradients: RowGradients, dictionary: Dictionary, picks: Float[Tensor, "replica draw"]
) -> Replacements:
    """Choose subnetworks to replace and directions to put in their place."""
    decoder, selection = dictionary.decoder, dictionary.selection
    size = selection.group_size
    kept = selection(gradients.inner(dictionary.encoder))
    along = gradients.inner(decoder) - through_gram(kept, decoder)  # e · v_k
    linear = (2 * kept * along).unflatten(-1, (-1, size)).sum(-1)
    use = (linear + selection.sizes(kept).square()).sum(-2)
    residual = residual_of(gradients, kept, decoder)
    fair = max(1, round(selection.l0 / use.shape[-1] * kept.shape[-2]))
    order = use.argsort(dim=-1)
    replicas, indices, news = [], [], []
    for turn, draws in enumerate(picks.split(N_CANDIDATES, dim=-1)):
        row, gain = _best_candidate(residual, draws, fair)
        worst = order[:, turn]
        better = gain > MARGIN * use.gather(-1, worst[:, None])[:, 0].clamp_min(0)
        if not better.any():
            break
        rows = [row]
        left = residual.without(row, fair)
        for _ in range(size - 1):
            rows.append(_companion(residual, left, fair))
            left = left.without(rows[-1], fair)
        residual = left
        for replica in better.nonzero()[:, 0].tolist():
            own = decoder.select(replica)
            directions = [
                residual_row(gradients, kept[replica], own, int(row[replica])) for row in rows
            ]
            new, ok = _orthogonal(torch.stack(directions))
            replicas += [replica] * len(ok)
            indices += (int(worst[replica]) * size + ok).tolist()
            news.append(unit(project(decoder.layout, new)).weights)
    if not news:
        empty = torch.zeros(0, dtype=torch.long)
        return Replacements(empty, empty, decoder.weights[0, :0])
    return Replacements(torch.tensor(replicas), torch.tensor(indices), torch.cat(news))


def n_replaced_at_most(n_subnetworks: int) -> int:
    """How many subnetworks of a replica may be replaced at one time."""
    return max(1, int(MAX_SHARE * n_subnetworks))


def _best_candidate(residual: Residual, draws: Tensor, fair: int) -> tuple[Tensor, Tensor]:
    """Of residual rows drawn by their square, the one [replica] of largest Γ, and that Γ."""
    square = residual.square()
    cumulative = square.cumsum(-1)
    at = torch.searchsorted(cumulative, draws.to(cumulative) * cumulative[:, -1:])
    at = at.clamp_max(square.shape[-1] - 1)
    gain, best = residual.gains(at, fair).max(-1)
    return at.gather(1, best[:, None])[:, 0], gain


def _companion(before: Residual, after: Residual, fair: int) -> Int[Tensor, " replica"]:
    """Of the rows that a new direction explains most of, the one of which most is left."""
    left = after.square()
    explained = (before.square() - left).topk(fair, dim=-1).indices
    return explained.gather(-1, left.gather(-1, explained).argmax(-1, keepdim=True))[:, 0]


def _orthogonal(
    rows: Float[Tensor, "row parameter"],
) -> tuple[Float[Tensor, "kept parameter"], Int[Tensor, " kept"]]:
    """Each row without what lies along those before it, where more than rounding is left; and which these are."""
    kept, index = [rows[0]], [0]
    for number, row in enumerate(rows[1:], start=1):
        rest = row
        for other in kept:
            rest = rest - (rest @ other) / (other @ other) * other
        if rest.norm() > torch.finfo(row.dtype).eps ** 0.5 * row.norm():
            kept.append(rest)
            index.append(number)
    return torch.stack(kept), torch.tensor(index)
