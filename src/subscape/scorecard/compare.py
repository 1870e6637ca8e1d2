"""Two decompositions: which subnetworks of one are in the other, by their codes on the same rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from subscape._checks import require
from subscape._html import table
from subscape._shapes import Float
from subscape.data import Samples, as_samples, n_samples, take
from subscape.lowrank import Stack
from subscape.lowrank.products import blocks_of_products
from subscape.measures.recovery import match
from subscape.rows import generator_of, permutation
from subscape.scorecard.stability import CORRELATED, correlations
from subscape.subnetworks.decomposition import Decomposition
from subscape.targets import Target

N_SHOWN = 10
"""Pairs in a notebook's table."""


@dataclass(frozen=True)
class Pair:
    """A subnetwork of each decomposition."""

    a: int
    """Of the first."""
    b: int
    """Of the second."""
    correlation: float
    """Of their codes over the rows, with its sign."""
    cosine: float | None
    """Of their directions; None where the decompositions are of different tensors."""


@dataclass(frozen=True)
class Agreement:
    """How well codes are matched."""

    stable: float
    """Share of pairs whose codes correlate at .7 or more, whatever the sign."""
    mean: float
    """Mean size of the correlation of the pairs."""


@dataclass(frozen=True, repr=False)
class Comparison:
    """Pairs of subnetworks of two decompositions, one to one, so that correlations sum to the most."""

    pairs: tuple[Pair, ...]
    """Largest correlation first."""
    only_a: tuple[int, ...]
    """Those of the first that are in no pair, as the second has fewer."""
    only_b: tuple[int, ...]
    """Those of the second."""
    n_rows: int
    """Rows whose codes were compared."""
    agreement: Agreement
    """Of these pairs."""
    shuffled: Agreement
    """The same where the rows of the second are shuffled: what chance gives."""

    def __repr__(self) -> str:
        return f"Comparison({len(self.pairs)} pairs over {self.n_rows:,} rows)"

    def __str__(self) -> str:
        rest = [(len(self.only_a), "first"), (len(self.only_b), "second")]
        return "\n".join([
            f"{len(self.pairs)} pairs over {self.n_rows:,} rows",
            f"|correlation| of codes ≥ {CORRELATED}: {self.agreement.stable:.0%} of pairs "
            f"(rows shuffled {self.shuffled.stable:.0%})",
            f"mean |correlation| {self.agreement.mean:.2f} (rows shuffled {self.shuffled.mean:.2f})",
            *(f"{n} of the {which} are in no pair" for n, which in rest if n),
        ])

    def _repr_html_(self) -> str:
        rows = [(p.a, p.b, f"{p.correlation:+.2f}", _figure(p.cosine)) for p in self.pairs]
        return table(str(self), ("first", "second", "correlation", "cosine"), rows[:N_SHOWN])


def compare(
    a: Decomposition,
    b: Decomposition,
    model: nn.Module | Target,
    data: Any,
    *,
    other_model: nn.Module | Target | None = None,
    n_rows: int = 2048,
    seed: int = 0,
) -> Comparison:
    """Pair the subnetworks of two decompositions by their codes on the same rows.

    Codes are those of `Decomposition.encode`, of every one by itself. Where both are of the same tensors the
    cosines of the pairs' directions are given too; pairs are not made by them.

    Args:
        a: a decomposition.
        b: another one, of the same model or of `other_model`.
        model: the model of the first, or its target.
        data: inputs, best not those trained on.
        other_model: the model of the second, if it is another one.
        n_rows: rows to encode, at most.
        seed: which rows, and how they are shuffled for the control.

    Raises:
        ValueError: if a decomposition does not go with its model, or their rows are of different kinds.
    """
    samples = as_samples(data)
    second = model if other_model is None else other_model
    whole = permutation(n_samples(samples), seed, 0)
    # Of sequences every position is a row: as many samples are encoded as there are rows asked for.
    per_sample = a.source(model, take(samples, whole[:2])).draws.per_sample
    samples = take(samples, whole[: max(2, n_rows // per_sample)])
    of_a, of_b = _codes(a, model, samples), _codes(b, second, samples)
    kinds = [len(of_a), len(of_b)]
    require(
        kinds[0] == kinds[1],
        "b",
        f"the same rows as the first, {kinds[0]:,} of {n_samples(samples):,} samples",
        f"{kinds[1]:,}",
        "Compare decompositions of samples, or of tokens.",
    )
    correlation = correlations(of_a, of_b)
    left, right = match(correlation.abs())
    cosine = cosines(a.directions, b.directions) if _same_tensors(a, b) else None
    order = torch.randperm(len(of_b), generator=generator_of(seed, 46))
    dealt = correlations(of_a, of_b[order]).abs()
    pairs = [
        Pair(i, j, float(correlation[i, j]), None if cosine is None else float(cosine[i, j]))
        for i, j in zip(left.tolist(), right.tolist(), strict=True)
    ]
    return Comparison(
        pairs=tuple(sorted(pairs, key=lambda p: -abs(p.correlation))),
        only_a=_without(len(a), left),
        only_b=_without(len(b), right),
        n_rows=len(of_a),
        agreement=_agreement(correlation.abs()[left, right]),
        shuffled=_agreement(dealt[match(dealt)]),
    )


def cosines(one: Stack, other: Stack) -> Float[Tensor, "one other"]:
    """Cosines of unit directions over the same tensors, whatever their ranks."""
    return torch.cat(list(blocks_of_products(one, other)))


def shapes_of(stack: Stack) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor by name."""
    return {t.name: t.shape for t in stack.layout.tensors}


def _same_tensors(a: Decomposition, b: Decomposition) -> bool:
    return shapes_of(a.directions) == shapes_of(b.directions)


def _codes(
    decomposition: Decomposition, model: nn.Module | Target, samples: Samples
) -> Float[Tensor, "row subnetwork"]:
    return decomposition.encode(model, samples).cpu().double()


def _without(n: int, taken: Tensor) -> tuple[int, ...]:
    return tuple(sorted(set(range(n)) - set(taken.tolist())))


def _agreement(matched: Float[Tensor, " pair"]) -> Agreement:
    return Agreement(float((matched >= CORRELATED).double().mean()), float(matched.mean()))


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"
