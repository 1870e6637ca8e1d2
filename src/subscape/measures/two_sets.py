"""How well numbers tell two sets apart, by their order alone: AUROC, its interval, and whether it is chance."""

from __future__ import annotations

import torch
from torch import Tensor

from subscape._shapes import Bool, Float

N_BISECTIONS = 60


def ranks(
    values: Float[Tensor, "*figure value"],
) -> tuple[Float[Tensor, "*figure value"], Float[Tensor, "*figure"]]:
    """Ranks from 1, the mean rank where values are equal, and Σ(t³ − t) over groups of t equal ones."""
    ordered, order = values.sort(-1)
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    group = new.long().cumsum(-1) - 1
    counts = torch.zeros_like(ordered).scatter_add(-1, group, torch.ones_like(ordered))
    equal = counts.gather(-1, group)
    mean = counts.cumsum(-1).gather(-1, group) - (equal - 1) / 2
    return torch.empty_like(ordered).scatter(-1, order, mean), (equal**2 - 1).sum(-1)


def aurocs(
    values: Float[Tensor, "row figure"], positive: Bool[Tensor, "row class_"]
) -> Float[Tensor, "class_ figure"]:
    """Chance that a value of a class is larger than another one, ties by half; NaN of a class of none or all."""
    # Row by row of the transpose: sorting is many times faster along memory.
    rank, _ = ranks(values.double().mT.contiguous())
    inside = positive.double().sum(0)
    sums = positive.double().mT @ rank.mT
    pairs = inside * (len(values) - inside)
    return (sums - (inside * (inside + 1) / 2)[:, None]) / pairs[:, None]


def auroc(inside: Float[Tensor, " a"], outside: Float[Tensor, " b"]) -> float:
    """Chance that a value of `inside` is larger than one of `outside`; ties count half."""
    return auroc_and_chance(inside, outside)[0]


def auroc_and_chance(a: Float[Tensor, " a"], b: Float[Tensor, " b"]) -> tuple[float, float]:
    """AUROC of `a` above `b`, ties counting half, and the two-sided p of Mann and Whitney's test for it.

    The p is that of the normal distribution, with corrections for ties and for continuity.
    """
    n, m = len(a), len(b)
    rank, ties = ranks(torch.cat([a, b]).double())
    u = float(rank[:n].sum()) - n * (n + 1) / 2
    variance = n * m / 12 * (n + m + 1 - float(ties) / ((n + m) * (n + m - 1)))
    if variance <= 0:
        return 0.5, 1.0
    z = max(0.0, abs(u - n * m / 2) - 0.5) / variance**0.5
    return u / (n * m), float(torch.erfc(torch.tensor(z / 2**0.5, dtype=torch.float64)))


def interval(auroc: float, n: int, m: int, z: float = 1.96) -> tuple[float, float]:
    """A confidence interval of an AUROC: all θ with (auroc − θ)² ≤ z² V(θ).

    (Newcombe 2006, Statistics in Medicine 25:559, method 5.) It has a width at 0 and 1 too.
    """

    def inside(theta: float) -> bool:
        spread = (1 - theta) / (2 - theta) + theta / (1 + theta)
        variance = theta * (1 - theta) * (1 + ((n + m) / 2 - 1) * spread) / (n * m)
        return (auroc - theta) ** 2 <= z**2 * variance

    ends = []
    for end in (0.0, 1.0):
        within, beyond = auroc, end
        for _ in range(N_BISECTIONS):
            middle = (within + beyond) / 2
            within, beyond = (middle, beyond) if inside(middle) else (within, middle)
        ends.append(within)
    return ends[0], ends[1]


def false_discovery(p: Float[Tensor, " test"]) -> Float[Tensor, " test"]:
    """Benjamini and Hochberg's q of every test: the share of false ones among all that are no larger."""
    order = p.argsort(descending=True)
    n = len(p)
    scaled = p[order] * n / torch.arange(n, 0, -1, dtype=p.dtype)
    q = torch.empty_like(p)
    q[order] = scaled.cummin(0).values.clamp_max(1)
    return q
