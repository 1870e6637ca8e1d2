"""How well a subnetwork's code tells what most of its top rows are, beside the best of other directions."""

from __future__ import annotations

import torch
from torch import Tensor

from subscape._shapes import Bool, Float
from subscape.measures.two_sets import aurocs
from subscape.scorecard.case import Case
from subscape.scorecard.features import Every, Features, members, values_in_both
from subscape.scorecard.record import Section, columns, left_out, line, section

N_TOP, LEAST = 20, 5


def separation(case: Case, every: Every) -> Section:
    """Mean AUROC over subnetworks by kind; majorities, and the best of every family, are of the rows to fit on."""
    kinds = shared_kinds(case)
    if not kinds:
        return left_out("separation", "nothing is known of the rows: no tokens and no labels")
    by_kind, said = {}, []
    for kind in kinds:
        classes = values_in_both(case, kind, LEAST)
        wanted = majorities(case, kind, every.families[0], classes)
        said.append(f"{int((wanted >= 0).sum())} by {kind}")
        by_kind[kind] = _of_kind(case, kind, every, classes, wanted)
    names = ["own code", *(f"best of {len(f.fit.mT)} {f.name}" for f in every.families)]
    lines = [
        line(name, *(figures[place] for figures in by_kind.values()), ours=place < 2)
        for place, name in enumerate(names)
    ]
    notes = (
        f"Majority of the {N_TOP} rows to fit on with the largest code; subnetworks with one that is frequent "
        f"enough: {', '.join(said)}. The best of a family is the one of largest AUROC for that majority on the "
        "rows to fit on; a subnetwork's own code is not chosen for it.",
    )
    return section("separation", columns(kinds, "high"), lines, notes)


def shared_kinds(case: Case) -> list[str]:
    """What is known of the rows to fit on and of those to score."""
    return [kind for kind in case.held.kinds if kind in case.fit.kinds]


def majorities(case: Case, kind: str, ours: Features, classes: list[int]) -> Tensor:
    """Place in `classes` of what most top rows of every subnetwork have; −1 where that is none of them."""
    top = case.fit.kinds[kind][ours.sizes[0].topk(min(N_TOP, len(ours.fit)), dim=0).indices]
    place = {value: i for i, value in enumerate(classes)}
    return torch.tensor([place.get(_most(values[values >= 0]), -1) for values in top.mT])


def _most(values: Tensor) -> int:
    return int(values.mode().values) if len(values) else -1


def _of_kind(
    case: Case, kind: str, every: Every, classes: list[int], wanted: Tensor
) -> list[float | None]:
    some = (wanted >= 0).nonzero()[:, 0]
    if not len(some):
        return [None] * (1 + len(every.families))
    fit, held = (members(part.kinds[kind], classes) for part in (case.fit, case.held))
    own = aurocs(every.families[0].sizes[1], held)[wanted[some], some]
    best = [best_of(family, fit, held)[wanted[some]] for family in every.families]
    return [float(values.mean()) for values in (own, *best)]


def best_of(
    family: Features, fit: Bool[Tensor, "fit class_"], held: Bool[Tensor, "row class_"]
) -> Float[Tensor, " class_"]:
    """For every class the AUROC of the figure that is best on the rows to fit on, by its better end."""
    chosen, scored = (
        aurocs(values, at) for values, at in zip(family.sizes, (fit, held), strict=True)
    )
    strength = (chosen - 0.5).abs() if family.neurons else chosen
    best = strength.argmax(1, keepdim=True)
    area, way = scored.gather(1, best)[:, 0], chosen.gather(1, best)[:, 0]
    return torch.where(way < 0.5, 1 - area, area) if family.neurons else area
