"""Selectivity over δ: as a subnetwork is pushed further, does it still move its own rows and no others?

    SUBSCAPE_DATA=… python experiments/selectivity.py --out runs/selectivity --write docs/open-questions.md

Claim: pushing a subnetwork moves the rows of its circuit. Rows are labelled exactly: those of six rules
planted in the MLP of layer 3 of stories260k. For every rule, the subnetwork whose code tells its rows best is
pushed until the median KL of the rule's rows is .001 to 1 nats; how well that movement tells them from all
others (AUROC) and how much more they move (ratio of medians), mean over rules and signs with the smallest and
largest. Controls: random directions of the same norms and ranks, pushed until the same rows move as much, and
the rule's own ΔW, the most that can be expected. About 8 minutes on one core.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from adversarial import distance
from geometry_measures import Text, coefficients
from page import Record, draw, kept, main
from planting import Bed
from torch import Tensor

from subscape import Target
from subscape.divergences import KL
from subscape.measures import auroc, random_like

AIMS = (0.001, 0.01, 0.1, 1.0)
N_OWN, N_WINDOWS, LENGTH = 24, 200, 16


@torch.no_grad()
def pushed(
    target: Target, direction: Mapping[str, Tensor], ids: Tensor, own_rows: Tensor, aim: float
) -> list[tuple[float, float]]:
    """AUROC and ratio of medians for both signs, at the δ that moves a rule's own rows by so much."""
    some = own_rows.view(len(ids), LENGTH).any(1).nonzero()[:N_OWN, 0]
    inside = own_rows.view(len(ids), LENGTH)[some]
    before = target.outputs(ids)
    found = []
    for sign in (1, -1):

        def moved(delta: float, at: Any = slice(None), sign: int = sign) -> Tensor:
            new = {n: target.parameters[n] + sign * delta * v for n, v in direction.items()}
            outputs = target.outputs(ids[at], new)
            return KL(outputs.flatten(0, 1), before[at].flatten(0, 1)).view(-1, LENGTH)

        delta = distance(lambda d, f=moved: float(f(d, some)[inside].median()), aim=aim)
        if delta is None:
            continue
        change = moved(delta).flatten()
        own, others = change[own_rows], change[~own_rows]
        found.append((auroc(own, others), float(own.median() / others.median().clamp_min(1e-9))))
    return found


def of_rules(out: Path, number: int, steps: int, aims: tuple[float, ...]) -> list[Record]:
    text = Text.load()
    bed = Bed(out.parent / "stories", text, number)
    result = bed.decomposed(out.parent / "stories" / f"rules-{number}-{steps}", 0, steps=steps)
    source = result.source(bed.planted.model, bed.held.ids)
    windows = (bed.held.labels >= 0).any(1).nonzero()[:, 0][: N_WINDOWS // 2]
    windows = torch.cat([windows, torch.arange(N_WINDOWS // 2)])
    ids, labels = bed.held.ids[windows], bed.held.labels[windows].flatten()
    sizes, _ = coefficients(result, source, windows)
    chance = random_like(result.directions)
    records = []
    for rule in range(len(bed.reach)):
        own = labels == rule
        if not own.any():
            continue
        best = max(range(len(result)), key=lambda k: auroc(sizes[own, k], sizes[~own, k]))
        whole = {name: change[rule] for name, change in bed.planted.changes.items()}
        for name, direction in (
            ("subnetworks", result[best].dense()),
            ("random directions", chance.select(best).dense()),
            ("ΔW of the rule", whole),
        ):
            for aim in aims:
                for area, ratio in pushed(source.target, direction, ids, own, aim):
                    records.append({"name": name, "aim": aim, "auroc": area, "ratio": ratio})
    return records


def measure(
    out: Path, *, sets: int = 1, steps: int = 2_000, aims: tuple[float, ...] = AIMS
) -> list[Record]:
    every = [
        r
        for number in range(sets)
        for r in kept(
            out / f"rules-{number}-{steps}.json", lambda n=number: of_rules(out, n, steps, aims)
        )
    ]
    records = []
    for name in dict.fromkeys(r["name"] for r in every):
        for aim in aims:
            some = [r for r in every if r["name"] == name and r["aim"] == aim]
            if not some:
                continue
            areas, ratios = (torch.tensor([r[k] for r in some]) for k in ("auroc", "ratio"))
            records.append({
                "name": name,
                "aim": aim,
                "n": len(some),
                "auroc": float(areas.mean()),
                "least": float(areas.min()),
                "most": float(areas.max()),
                "ratio": float(ratios.median()),
                "least_ratio": float(ratios.min()),
                "most_ratio": float(ratios.max()),
            })
    return records


COLUMNS = {
    "pushed": "{name}",
    "KL of the rule's rows": "{aim:g}",
    "AUROC": "{auroc:.2f} ({least:.2f} to {most:.2f})",
    "ratio": "{ratio:.3g} ({least_ratio:.2g} to {most_ratio:.3g})",
    "pushes": "{n}",
}


def picture(path: Path, records: list[Record]) -> None:
    lines = {}
    for name in dict.fromkeys(r["name"] for r in records):
        some = [r for r in records if r["name"] == name]
        lines[name] = ([r["aim"] for r in some], [r["auroc"] for r in some])
    draw(path, lines, x="median KL of the rule's rows", y="AUROC", log_x=True)


if __name__ == "__main__":
    main("selectivity", __doc__, measure, COLUMNS, picture)
