"""Sparse probes: how well one figure, or five, of a family tell what a row is."""

from __future__ import annotations

import torch
from torch import Tensor

from subscape._checks import optional
from subscape._shapes import Bool, Float
from subscape.measures.two_sets import aurocs
from subscape.scorecard.case import Case, sparse
from subscape.scorecard.features import Every, Features, members, values_in_both
from subscape.scorecard.record import Section, columns, left_out, line, section
from subscape.scorecard.separation import shared_kinds

SIZES = (1, 5)
N_TASKS, LEAST = 10, 20


def probes(case: Case, every: Every) -> Section:
    """Mean AUROC over the most frequent values of every kind, by family of figures."""
    kinds = shared_kinds(case)
    tasks = {kind: values_in_both(case, kind, LEAST)[:N_TASKS] for kind in kinds}
    tasks = {kind: values for kind, values in tasks.items() if values}
    if not tasks:
        why = f"no token, class or label that {LEAST} rows of both parts have"
        return left_out("probes", why)
    logistic = optional("sklearn.linear_model", "for sparse probes", "'subscape[toys]'")
    lines = []
    for name, fit, held in [c for family in every.families for c in codes_of(family, case.l0)]:
        scale = fit.std(0).clamp_min(1e-12)
        figures = []
        for kind, values in tasks.items():
            known, scored = (members(part.kinds[kind], values) for part in (case.fit, case.held))
            areas = probed(logistic, fit / scale, held / scale, known, scored)
            figures += areas.mean(1).tolist()
        lines.append(line(name, *figures, ours=name == every.families[0].name))
    counted = ", ".join(f"{len(values)} by {kind}" for kind, values in tasks.items())
    notes = (
        f"Most frequent values: {counted}. Codes are the largest of each family over all rows, {case.l0:.3g} a "
        "row; of neurons also all. Those to use are chosen by the difference of means on the rows to fit on.",
        *every.notes,
    )
    names = [f"{kind}, {n}" for kind in tasks for n in SIZES]
    return section("probes", columns(names, "high"), lines, notes)


def codes_of(family: Features, l0: float) -> list[tuple[str, Tensor, Tensor]]:
    """What is probed: the largest values, `l0` a row; neurons in full and, in standard units, the largest too."""
    fit, held = family.fit.double(), family.held.double()
    if not family.neurons:
        return [(family.name, sparse(fit, l0), sparse(held, l0))]
    middle, scale = fit.mean(0), fit.std(0).clamp_min(1e-12)
    largest = [sparse((values - middle) / scale, l0) for values in (fit, held)]
    name = f"{family.name}, the largest"
    return [(f"{family.name}, all", fit, held), (name, largest[0], largest[1])]


def probed(
    logistic: object,
    fit: Float[Tensor, "fit figure"],
    held: Float[Tensor, "row figure"],
    known: Bool[Tensor, "fit class_"],
    scored: Bool[Tensor, "row class_"],
) -> Float[Tensor, "size class_"]:
    """AUROC of probes of every size for every class."""
    order = apart(fit, known).argsort(1, descending=True)
    areas = torch.empty(len(SIZES), known.shape[1], dtype=torch.float64)
    for i, n in enumerate(SIZES):
        for c in range(known.shape[1]):
            at = order[c, :n]
            probe = logistic.LogisticRegression(class_weight="balanced", max_iter=500)  # pyright: ignore[reportAttributeAccessIssue]
            probe.fit(fit[:, at].numpy(), known[:, c].numpy())
            decided = torch.from_numpy(probe.decision_function(held[:, at].numpy()))
            areas[i, c] = aurocs(decided[:, None], scored[:, [c]])[0, 0]
    return areas


def apart(
    values: Float[Tensor, "row figure"], positive: Bool[Tensor, "row class_"]
) -> Float[Tensor, "class_ figure"]:
    """How far the means of a class and of the other rows are apart, in standard deviations."""
    inside = positive.double()
    n = inside.sum(0)[:, None]
    within = inside.mT @ values
    mean, rest = within / n, (values.sum(0) - within) / (len(values) - n)
    return (mean - rest).abs() / values.std(0).clamp_min(1e-12)
