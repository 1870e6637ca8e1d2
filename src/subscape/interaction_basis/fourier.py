"""Fourier labels: which waves over pairs (a, b) mod p a direction's activations are made of.

Power is split by frequency into four kinds: the constant, cos(ka) + cos(kb) and its like (waves of one of
the two numbers), and waves of a + b and of a - b; what remains mixes two frequencies.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    """Split the variance over all pairs by kind of wave.

    Args:
        values: a direction's activation at every pair of numbers (a, b).

    Returns:
        The terms with the most variance, enough to cover `COVERED` of it.
    """
    p = values.shape[0]
    require(values.shape[1] == p, "values", "a square table", f"{list(values.shape)}")
    power = torch.fft.fft2(values.double()).abs().square() / p**4
    power[0, 0] = 0
    whole = float(power.sum())
    if whole <= SAME_WAVE * float(values.double().square().mean()):
        return []
    shares: dict[tuple[str, tuple[int, ...]], float] = {}
    for (x, y), share in zip(
        torch.cartesian_prod(torch.arange(p), torch.arange(p)).tolist(),
        (power / whole).flatten().tolist(),
        strict=True,
    ):
        if share > SAME_WAVE:
            key = _kind(x, y, p)
            shares[key] = shares.get(key, 0.0) + share
    terms = [Term(kind, k, share) for (kind, k), share in shares.items()]
    terms.sort(key=lambda term: -term.share)
    kept, covered = [], 0.0
    for term in terms[:MOST_TERMS]:
        if covered >= COVERED:
            break
        kept.append(term)
        covered += term.share
    return kept


def frequency_shares(values: Float[Tensor, "first second"]) -> dict[int, float]:
    """Share of the variance by frequency, waves of two frequencies counting half for each."""
    shares: dict[int, float] = {}
    for term in fourier_terms(values):
        ks = term.frequency
        for k in ks:
            shares[k] = shares.get(k, 0.0) + term.share / len(ks)
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _kind(x: int, y: int, p: int) -> tuple[str, tuple[int, ...]]:
    k, other = min(x, p - x), min(y, p - y)
    if 0 in (x, y):
        return "single", (max(k, other),)
    if k != other:
        return "mixed", (k, other)
    return ("sum" if x == y else "difference"), (k,)
