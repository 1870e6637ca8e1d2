"""How many: which subnetworks are one of their own, and which are parts or copies of others.

Nobody knows the true number of circuits, and spare subnetworks split them: the error hardly falls, and training
drifts there. With the best codes at the same L0 (`sparse_codes`), take subnetwork k away and let the others do
what they can in the rows where it was active:

    lost_k       what is then explained less
    use_k        Σ s_k², what k explains as things are
    unique_k     lost_k / use_k: how little the others can stand in for it

both above the price of the places it takes, which could be filled elsewhere.

A subnetwork goes if the others make up for a fifth of what it does, unique_k < `UNIQUE`, or if it is worth less
than a quarter of a fair share, lost_k < `SHARE` · explained / n. Least lost goes first, a tenth at a time and
never two that are alike, until none is left to go. Where it is one other that makes up for most, they are merged:
the other becomes the best direction for what both explained. Otherwise k is dropped.

L0 may be too large as well: places are filled, best first, while one explains at least a fiftieth of what they do
on average.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from subscape._shapes import Float
from subscape.lowrank import Stack
from subscape.lowrank.project import project
from subscape.lowrank.stack import unit
from subscape.subnetworks.sparse_codes import SMALL_PIVOT, codes_of, pursuit, slopes, spread

UNIQUE = 0.8
"""Share of its use that must be lost without it for a subnetwork to stay."""
SHARE = 0.25
"""Share of a fair share, explained / n, that must be lost without it."""
AT_ONCE = 0.1
"""Share of the subnetworks that go in one round at most (but at least one)."""
WORTH_A_PLACE = 0.02
"""Share of what an active subnetwork explains on average that one more must explain."""
ALIKE = 0.2
"""|cosine| from which two do not go in the same round: the second may be what stands in for the first."""
TAKEN_OVER = 0.5
"""Share of what the others make up for that one of them must, for the two to count as merged."""


@dataclass(frozen=True)
class Gone:
    """A subnetwork that went."""

    subnetwork: int
    """Its place before."""
    merged_into: int | None
    """The one that took over, by its place before; None if it was dropped."""
    cosine: float
    """Between the two; of a dropped one with the most similar."""
    unique: float
    """lost / use when it went."""
    share: float
    """lost / (explained / n) when it went."""


@dataclass(frozen=True)
class Consolidation:
    """Which subnetworks stay, and what became of the others."""

    kept: list[int]
    """Those that stay, by their places before."""
    gone: list[Gone]
    """Those that went, in order."""
    l0: float
    """Active subnetworks per row: as asked, or as many as are worth a place."""
    parts: list[dict[int, float]]
    """What of the directions before makes each of those that stay, a unit direction: places and weights."""

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "before": len(self.kept) + len(self.gone),
            "after": len(self.kept),
            "l0": self.l0,
            "kept": self.kept,
            "gone": [asdict(each) for each in self.gone],
        }

    def applied_to(self, stack: Stack, *, normalise: bool = False) -> Stack:
        """The directions that stay, of the same ranks; encoders are merged as decoders are, without a norm."""
        weights = stack.weights[self.kept].clone()
        for place, parts in enumerate(self.parts):
            if len(parts) == 1:
                continue
            which = torch.tensor(list(parts), device=weights.device)
            union = weights.new_tensor(list(parts.values())) @ stack.select(which).flat()
            merged = project(stack.layout, union[None])
            weights[place] = (unit(merged) if normalise else merged).weights[0]
        return Stack(stack.layout, weights)


def summary(record: Mapping[str, Any]) -> str:
    """How many there were, how many are left, and what became of the others."""
    merged = sum(each["merged_into"] is not None for each in record["gone"])
    became = f"{merged} merged, {len(record['gone']) - merged} dropped"
    return f"{record['before']} subnetworks → {record['after']} ({became})"


class Worth(NamedTuple):
    """What every subnetwork is worth."""

    use: Float[Tensor, " subnetwork"]
    """Σ s_k² with the best codes."""
    lost: Float[Tensor, " subnetwork"]
    """What is explained less without it."""
    explained: Float[Tensor, ""]
    """Energy that all explain together."""
    codes: Float[Tensor, "row subnetwork"]
    """The best codes."""
    l0: float
    """Active ones per row: as asked, or as many as are worth a place."""
    price: Float[Tensor, ""]
    """What a place is worth."""


def consolidate(
    inner: Float[Tensor, "row subnetwork"],
    gram: Float[Tensor, "subnetwork subnetwork"],
    l0_of: Callable[[int], float],
) -> Consolidation:
    """Find the subnetworks that are one of their own.

    Args:
        inner: ⟨g_i, v_k⟩ of a sample of rows with unit directions.
        gram: ⟨v_k, v_l⟩.
        l0_of: active subnetworks per row, where there are so many subnetworks.
    """
    inner, gram = inner.to(torch.float64, copy=True), gram.to(torch.float64, copy=True)
    kept, gone = list(range(len(gram))), []
    parts = [{k: 1.0} for k in kept]
    while True:
        worth = worths(inner, gram, l0_of(len(kept)))
        out = _out(worth, gram)
        if not out:
            break
        fair = worth.explained / len(kept)
        unions = []
        for k in out:
            into, cosine = _heir(worth, inner, gram, k, out)
            unique, share = worth.lost[k] / worth.use[k], worth.lost[k] / fair
            gone.append(
                Gone(
                    kept[k],
                    None if into is None else kept[into],
                    cosine,
                    float(unique.nan_to_num(0)),
                    float(share.nan_to_num(0)),
                )
            )
            if into is not None:
                pair = [into, k]
                unions.append((pair, _union(worth.codes[:, pair], gram[pair][:, pair])))
        for (into, k), weights in unions:
            inner[:, into] = inner[:, [into, k]] @ weights
            gram[into] = weights @ gram[[into, k]]
            gram[:, into] = gram[:, [into, k]] @ weights
            mine, theirs = weights.tolist()
            both = parts[into].keys() | parts[k].keys()
            parts[into] = {
                p: mine * parts[into].get(p, 0.0) + theirs * parts[k].get(p, 0.0) for p in both
            }
        stay = [place for place in range(len(kept)) if place not in set(out)]
        kept, parts = [kept[place] for place in stay], [parts[place] for place in stay]
        inner, gram = inner[:, stay], gram[stay][:, stay]
    return Consolidation(kept, gone, worth.l0, parts)


def worths(
    inner: Float[Tensor, "row subnetwork"], gram: Float[Tensor, "subnetwork subnetwork"], l0: float
) -> Worth:
    """What every subnetwork is worth with the best codes, `l0` active ones a row on average."""
    n_rows, n = inner.shape
    explained, chosen = pursuit(inner, gram, min(n, max(6, math.ceil(3 * l0))))
    budget, price = _budget(explained, l0)
    n_active = spread(explained, budget)
    own = explained.gather(1, n_active[:, None])[:, 0]
    codes = codes_of(inner, gram, chosen, n_active)
    lost = inner.new_zeros(n)
    with_it = own - price * n_active
    for k in range(n):
        rows = codes[:, k].nonzero()[:, 0]
        if len(rows):
            best = _without(k, inner[rows], gram, n_active[rows], price).worth
            lost[k] = (with_it[rows] - best).clamp_min(0).sum()
    use = (codes.square().sum(0) - price * (codes != 0).sum(0)).clamp_min(0)
    return Worth(use, lost, with_it.sum(), codes, min(l0, budget / n_rows), price)


class _Without(NamedTuple):
    worth: Float[Tensor, " row"]
    codes: Float[Tensor, "row subnetwork"]


def _without(k: int, inner: Tensor, gram: Tensor, n_active: Tensor, price: Tensor) -> _Without:
    """What the others do in some rows without subnetwork k: with no more active ones than there were."""
    n = len(gram)
    most = min(max(1, int(n_active.max())), n - 1)
    explained, chosen = pursuit(inner, gram, most, without=k)
    best, n_now = (explained - price * torch.arange(most + 1, device=gram.device)).max(1)
    return _Without(best, codes_of(inner, gram, chosen, n_now))


def _budget(explained: Tensor, l0: float) -> tuple[int, Tensor]:
    """How many places are filled in all rows together, and what a place is worth where they end."""
    gains = slopes(explained).flatten().sort(descending=True).values
    asked = min(max(1, round(l0 * len(explained))), len(gains))
    means = gains[:asked].cumsum(0) / torch.arange(1, asked + 1, device=gains.device)
    budget = max(1, int((gains[:asked] >= WORTH_A_PLACE * means).sum()))
    # What the first place that is not filled would bring; not zero, so that none is filled for nothing.
    price = gains[budget:][:1].sum().clamp_min(SMALL_PIVOT * gains[0])
    return (budget if budget < asked else max(1, round(l0 * len(explained)))), price


def _out(worth: Worth, gram: Tensor) -> list[int]:
    """Who goes in this round, least lost first."""
    n = len(gram)
    replaceable = worth.lost < UNIQUE * worth.use
    small = worth.lost <= SHARE * worth.explained / n
    out: list[int] = []
    # Of equal ones that of no use goes first.
    order = sorted(range(n), key=lambda k: (float(worth.lost[k]), float(worth.use[k])))
    for k in order:
        if len(out) == max(1, int(AT_ONCE * n)):
            break
        if (replaceable[k] or small[k]) and not (gram[k, out].abs() > ALIKE).any():
            out.append(k)
    return out[: n - 1]


def _heir(
    worth: Worth, inner: Tensor, gram: Tensor, k: int, out: list[int]
) -> tuple[int | None, float]:
    """Who of the others makes up for most of what can be made up for, if k is replaceable; and the cosine."""
    rows = worth.codes[:, k].nonzero()[:, 0]
    growth = inner.new_zeros(len(gram))
    if len(rows):
        n_active = (worth.codes[rows] != 0).sum(1)
        codes = _without(k, inner[rows], gram, n_active, worth.price).codes
        growth = (codes.square() - worth.codes[rows].square()).sum(0)
    cosines = gram[k].abs().clone()
    growth[out], cosines[out] = -torch.inf, -torch.inf
    into = int(growth.argmax())
    made_up = worth.use[k] - worth.lost[k]
    if worth.lost[k] < UNIQUE * worth.use[k] and growth[into] >= TAKEN_OVER * made_up:
        return into, float(gram[k, into])
    return None, float(cosines.max())


def _union(codes: Tensor, gram: Tensor) -> Float[Tensor, "pair"]:
    """Weights of the unit direction that holds most of the energy of what two directions rebuild together."""
    # Top right singular vector of codes · V, within the span of V: of R codesᵀ codes Rᵀ with RᵀR = gram.
    root = torch.linalg.cholesky(gram + SMALL_PIVOT * torch.eye(2).to(gram), upper=True)
    top = torch.linalg.eigh(root @ (codes.mT @ codes) @ root.mT).eigenvectors[:, -1:]
    weights = torch.linalg.solve_triangular(root, top, upper=True)[:, 0]
    # The sign of the one that stays.
    return weights * torch.where((gram @ weights)[0] < 0, -1.0, 1.0)
