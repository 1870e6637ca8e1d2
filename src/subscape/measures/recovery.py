"""Recovery: whether subnetworks are the true ones, in tensors only, whatever the target.

Takes decoder rows and true directions over the same flattened parameters; gives cosines, a one-to-one
match and a verdict. Signs are free: a subnetwork and its negative are the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from subscape._checks import optional, require
from subscape._shapes import Bool, Float, Int

MATCHED = 0.9
"""Smallest |cosine| at which a subnetwork counts as a true one. 0.95 would be too strict: rows with
several active features tilt every subnetwork of TMS 40-10 to .94-.97."""
SPLIT = 0.5
"""A second subnetwork at this |cosine| from a true one means that the circuit was split."""


@dataclass(frozen=True)
class Recovery:
    """How the alive subnetworks compare with the represented true directions."""

    mmcs: float
    """Mean over truths of |cos| to the matched subnetwork, matched one to one (Hungarian)."""
    mmcs_unmatched: float
    """Mean over truths of the largest |cos| to any subnetwork (the form of APD and SPD, sign-free)."""
    min_cosine: float
    """Smallest matched |cos|."""
    precision: float
    """Mean over alive subnetworks of the largest |cos| to any truth; NaN if none is alive."""
    cosine: Float[Tensor, " truth"]
    """Matched |cos| per truth; 0 where there is no match, NaN where the target lacks the feature."""
    index: Int[Tensor, " truth"]
    """Matched subnetwork per truth; -1 where there is none."""
    second_cosine: float
    """Largest |cos| between a truth and an alive subnetwork that is not its match."""
    n_truths: int
    """Represented truths."""
    n_alive: int
    """Alive subnetworks."""

    @property
    def n_matched(self) -> int:
        """Truths matched at `MATCHED` or better."""
        return int((self.cosine >= MATCHED).sum())

    @property
    def all_matched(self) -> bool:
        """Success for groups: every truth is matched at `MATCHED`, whatever the others do."""
        return self.n_matched == self.n_truths

    @property
    def success(self) -> bool:
        """All truths matched, and no other alive subnetwork within `SPLIT` of any of them."""
        return self.all_matched and self.second_cosine < SPLIT


def recovery(
    subnetworks: Float[Tensor, "subnetwork parameter"],
    truth: Float[Tensor, "truth its_parameter"],
    *,
    alive: Bool[Tensor, " subnetwork"] | None = None,
    represented: Bool[Tensor, " truth"] | None = None,
) -> Recovery:
    """Compare subnetworks with true directions of any length but zero, target tensors flattened and concatenated.

    Subnetworks that are not `alive` are neither matched nor counted against; truths that are not `represented` are
    left out: the target does not compute them.
    """
    require(
        subnetworks.shape[1] == truth.shape[1],
        "truth",
        f"directions over {subnetworks.shape[1]} parameters, as the subnetworks",
        truth.shape[1],
        "Use the same parameter patterns for both.",
    )
    return recovery_by(absolute_cosines(truth, subnetworks), alive=alive, represented=represented)


def recovery_by(
    every: Float[Tensor, "truth subnetwork"],
    *,
    alive: Bool[Tensor, " subnetwork"] | None = None,
    represented: Bool[Tensor, " truth"] | None = None,
) -> Recovery:
    """`recovery` from the |cosines|, or from `span_cosines` of groups."""
    alive_at, truth_at = _indices(alive, every.mT), _indices(represented, every)
    require(len(truth_at) > 0, "represented", "at least one true entry", "none")
    cosines = every[truth_at][:, alive_at]

    row, column = match(cosines)
    cosine = cosines.new_full((len(every),), torch.nan)
    cosine[truth_at] = 0.0
    cosine[truth_at[row]] = cosines[row, column]
    index = torch.full((len(every),), -1, device=every.device)
    index[truth_at[row]] = alive_at[column]
    others = cosines.clone()
    others[row, column] = 0.0

    matched = cosine[truth_at]
    any_alive = cosines.shape[1] > 0
    return Recovery(
        mmcs=float(matched.mean()),
        mmcs_unmatched=float(cosines.amax(1).mean()) if any_alive else 0.0,
        min_cosine=float(matched.min()),
        precision=float(cosines.amax(0).mean()) if any_alive else float("nan"),
        cosine=cosine,
        index=index,
        second_cosine=float(others.max()) if any_alive else 0.0,
        n_truths=len(truth_at),
        n_alive=len(alive_at),
    )


def absolute_cosines(
    left: Float[Tensor, "left parameter"], right: Float[Tensor, "right parameter"]
) -> Float[Tensor, "left right"]:
    """|cos| of every pair, in float64."""
    left, right = (v.double() / v.double().norm(dim=1, keepdim=True) for v in (left, right))
    return (left @ right.mT).abs()


def span_cosines(
    truth: Float[Tensor, "truth parameter"], groups: Float[Tensor, "group direction parameter"]
) -> Float[Tensor, "truth group"]:
    """Cosine of every true direction with what it has in the span of every group, in float64."""
    truth = truth.double() / truth.double().norm(dim=1, keepdim=True)
    bases = torch.linalg.qr(groups.double().mT).Q
    return torch.einsum("tp,gpm->tgm", truth, bases).norm(dim=-1)


def match(score: Float[Tensor, "left right"]) -> tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]:
    """Match left with right one to one so that the scores sum to the most; the indices of the pairs."""
    optimize = optional("scipy.optimize", "for the one-to-one match", "'subscape[toys]'")
    left, right = optimize.linear_sum_assignment(score.cpu().numpy(), maximize=True)
    return torch.as_tensor(left).to(score.device), torch.as_tensor(right).to(score.device)


def _indices(mask: Tensor | None, rows: Tensor) -> Tensor:
    """Where the mask is true; all rows without one."""
    every = torch.arange(len(rows), device=rows.device)
    return every if mask is None else every[mask.to(rows.device)]
