"""Fourier labels: which waves over pairs (a, b) mod p a direction's activations are made of.

Power is split by frequency into four kinds: the constant, cos(ka) + cos(kb) and its like (waves of one of
the two numbers), and waves of a + b and of a - b; what remains mixes two frequencies.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from subscape._checks import require
from subscape._shapes import Float

COVERED = 0.995
"""Share of the power that a label covers, if that takes no more than `MOST_TERMS` terms."""
MOST_TERMS = 7
SAME_WAVE = 1e-12
"""Power below this share is rounding."""


@dataclass(frozen=True)
class Term:
    """One kind of wave."""

    kind: str
    """`single`, `sum`, `difference`, `mixed`."""
    frequency: tuple[int, ...]
    """k, or (k, l) for mixed ones; from 1 to (p - 1) / 2."""
    share: float
    """Of the variance of the direction's activation."""

    def __str__(self) -> str:
        """Such as 97 % cos(36a+36b)."""
        k, *rest = self.frequency
        wave = {
            "single": f"cos({k}a)+cos({k}b)",
            "sum": f"cos({k}a+{k}b)",
            "difference": f"cos({k}a-{k}b)",
            "mixed": f"cos({k}a)cos({rest[0] if rest else k}b)",
        }[self.kind]
        return f"{self.share:.0%} {wave}"


def fourier_terms(values: Float[Tensor, "first second"]) -> list[Term]:
    """The largest terms of an activation over all pairs (a, b), enough to cover `COVERED` of its variance."""
    p = len(values)
    require(values.shape[1] == p, "values", "a square table", f"{list(values.shape)}")
    power = torch.fft.fft2(values.double()).abs().square() / p**4
    power[0, 0] = 0
    whole = float(power.sum())
    if whole <= SAME_WAVE * float(values.double().square().mean()):
        return []
    shares: dict[tuple[str, tuple[int, ...]], float] = defaultdict(float)
    for x, row in enumerate((power / whole).tolist()):
        for y, share in enumerate(row):
            if share > SAME_WAVE:
                shares[_kind(x, y, p)] += share
    terms = [Term(kind, k, share) for (kind, k), share in shares.items()]
    terms.sort(key=lambda term: -term.share)
    before = accumulate((term.share for term in terms), initial=0.0)
    return [
        term for term, covered in zip(terms[:MOST_TERMS], before, strict=False) if covered < COVERED
    ]


def frequency_shares(values: Float[Tensor, "first second"]) -> dict[int, float]:
    """Share of the variance by frequency, waves of two frequencies counting half for each."""
    shares: dict[int, float] = defaultdict(float)
    for term in fourier_terms(values):
        for k in term.frequency:
            shares[k] += term.share / len(term.frequency)
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _kind(x: int, y: int, p: int) -> tuple[str, tuple[int, ...]]:
    k, other = min(x, p - x), min(y, p - y)
    if 0 in (x, y):
        return "single", (max(k, other),)
    if k != other:
        return "mixed", (k, other)
    return ("sum" if x == y else "difference"), (k,)
