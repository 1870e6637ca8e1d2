"""Which subnetworks tell two sets of inputs apart, and which are moved to turn one into the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from subscape._checks import require
from subscape._html import Printed
from subscape._shapes import Float
from subscape.data import Samples, as_samples, form_of, hashes, n_samples, take
from subscape.gradients.geometry import Geometry
from subscape.gradients.source import GradientSource
from subscape.measures.kept import check_vocabulary
from subscape.measures.two_sets import auroc_and_chance, false_discovery, interval
from subscape.references import FixedOutput
from subscape.subnetworks.decomposition import Decomposition
from subscape.targets import Outputs, Target

FEWEST = 8
"""Distinct samples of a set at least: below that the test of ranks is no test."""
BATCH = 16
"""Samples made at once."""
N_DRAWS = 4
"""Partners that a row meets, where it has any."""


@dataclass(frozen=True)
class Difference:
    """How one subnetwork tells the sets apart."""

    index: int
    """Which subnetwork."""
    auroc: float
    """Chance that a sample of A has a larger coefficient than one of B; ties count half."""
    low: float
    """Lower end of its 95 % confidence interval."""
    high: float
    """Upper end."""
    p: float
    """Of Mann and Whitney's test."""
    q: float
    """The share of false ones among all that are told apart at least as surely (Benjamini and Hochberg)."""
    mean_a: float
    """Mean over A of what is compared."""
    mean_b: float
    """Mean over B."""
    turn: float
    """By how much the divergence of A's rows from the mean output of B falls per δ, to first order: with its
    sign, where to push to turn A into B."""

    @property
    def larger(self) -> Literal["a", "b"]:
        """The set with the larger coefficients."""
        return "a" if self.auroc >= 0.5 else "b"


@dataclass(frozen=True, repr=False)
class Contrast(Printed):
    """How all subnetworks tell two sets of inputs apart, the best first."""

    differences: Sequence[Difference]
    """Of every subnetwork."""
    n_a: int
    """Distinct samples of A."""
    n_b: int
    """Distinct samples of B."""
    level: float
    """Share of false ones that is accepted among those told apart."""

    @property
    def told_apart(self) -> list[Difference]:
        """Those for which chance is ruled out."""
        return [d for d in self.differences if d.q <= self.level]

    def shown(self, n: int = 20) -> str:
        """Those told apart as a table, the first n."""
        apart = self.told_apart
        counts = f"{len(apart)} of {len(self.differences)} subnetworks"
        head = f"{counts} tell {self.n_a} samples of A from {self.n_b} of B, at most {self.level:.0%} by chance"
        title = f"{'subnetwork':>10}  larger in, AUROC (95 %)  {'q':>7} {'A to B':>9}"
        lines = [
            f"{d.index:>10}  {d.larger.upper()}  {d.auroc:.3f} [{d.low:.3f}, {d.high:.3f}]"
            f" {d.q:>8.1e} {d.turn:>+9.3g}"
            for d in apart[:n]
        ]
        return "\n".join([head, *([title, *lines] if lines else [])])

    def __repr__(self) -> str:
        return (
            f"Contrast({len(self.told_apart)} of {len(self.differences)} subnetworks tell A from B)"
        )

    def __str__(self) -> str:
        return self.shown()


def contrast(
    found: Decomposition,
    model: nn.Module | Target,
    a: Any,
    b: Any,
    *,
    level: float = 0.05,
    outputs: Outputs | None = None,
) -> Contrast:
    """Say which subnetworks of a decomposition tell two sets of inputs apart.

    What is compared is one number a sample: its coefficient, and of a sequence that of the position where it is
    largest, with its sign. (Where references are other rows a sign says nothing: then its size.)

    Args:
        found: the decomposition.
        model: the model it was made for, or its `Target`.
        a: inputs.
        b: others of the same kind; copies within a set count once.
        level: share of false ones to accept among those told apart.
        outputs: as for `Target`.

    Raises:
        ValueError: if the sets have samples in common, are too small, or do not go with the model.
    """
    require(0 < level < 1, "level", "a share between 0 and 1", level)
    here = found.beside(model)
    sets = {"a": _distinct(a, "a"), "b": _distinct(b, "b")}
    _check_apart(sets["a"], sets["b"])
    target = model if isinstance(model, Target) else here.target_in(model, outputs=outputs)
    for samples in sets.values():
        check_vocabulary(target, samples)
    sources = {name: here.source(target, samples) for name, samples in sets.items()}
    with torch.no_grad():
        of_a, of_b = (_values(here, source) for source in sources.values())
        turns = _turns(here, sources["a"], _mean_output(sources["b"]))
    tests = [auroc_and_chance(x, y) for x, y in zip(of_a.mT, of_b.mT, strict=True)]
    qs = false_discovery(torch.tensor([p for _, p in tests], dtype=torch.float64)).tolist()
    differences = [
        Difference(
            k,
            area,
            *interval(area, len(of_a), len(of_b)),
            p,
            qs[k],
            float(of_a[:, k].mean()),
            float(of_b[:, k].mean()),
            float(turns[k]),
        )
        for k, (area, p) in enumerate(tests)
    ]
    differences.sort(key=lambda d: (-abs(d.auroc - 0.5), d.index))
    return Contrast(tuple(differences), len(of_a), len(of_b), level)


def _distinct(data: Any, name: str) -> Samples:
    samples = as_samples(data)
    first = {digest: place for place, digest in reversed(list(enumerate(hashes(samples))))}
    require(
        len(first) >= FEWEST,
        name,
        f"at least {FEWEST} different samples",
        f"{len(first)} of {n_samples(samples)}",
        "Give more.",
    )
    return take(samples, torch.tensor(sorted(first.values())))


def _check_apart(a: Samples, b: Samples) -> None:
    expected = "samples made of the same tensors as those of a"
    require(form_of(a).keys() == form_of(b).keys(), "b", expected, f"{list(form_of(b))}")
    both = len({*hashes(a)} & {*hashes(b)})
    repair = "Leave them out of one of the sets, or of both."
    require(not both, "b", "samples that are not in a", f"{both} that are in both", repair)


def _values(found: Decomposition, source: GradientSource) -> Float[Tensor, "sample subnetwork"]:
    """What is compared."""
    signed = found.reference is not None
    parts = []
    for part in torch.arange(len(source)).split(BATCH):
        draws = [source.rows_of(part, draw=d) for d in range(1 if signed else N_DRAWS)]
        each = [found.coefficients(g) for g in source.gradients_over(draws)]
        rows = each[0] if signed else torch.stack([c.abs() for c in each]).mean(0)
        rows = rows.unflatten(0, (len(part), -1))
        place = rows.abs().argmax(1, keepdim=True)
        parts.append(rows.gather(1, place)[:, 0])
    return torch.cat(parts)


def _mean_output(source: GradientSource) -> FixedOutput:
    """The mean output over the rows of a source."""
    divergence = source.divergence
    sums = [
        divergence.to_average(source.outputs_at(source.rows_of(part)).double()).sum(0)
        for part in torch.arange(len(source)).split(BATCH)
    ]
    mean = torch.stack(sums).sum(0) / source.n_rows
    return FixedOutput(divergence.from_average(mean).to(source.target.like))


def _turns(
    found: Decomposition, source: GradientSource, reference: FixedOutput
) -> Float[Tensor, " subnetwork"]:
    """−⟨g, d_k⟩ averaged over rows, with g the plain gradient of the divergence from the reference."""
    plain = GradientSource(
        source.target,
        source.data,
        divergence=source.divergence,
        reference=reference,
        rows=source.kind,
        geometry=Geometry(),
        like=source,
    )
    total = torch.zeros(len(found), dtype=torch.float64)
    for part in torch.arange(len(plain)).split(BATCH):
        inner = plain.gradients(plain.rows_of(part)).inner(found.directions)
        total += inner.double().sum(0).cpu()
    return -total / plain.n_rows
