"""How much of row gradients is left unexplained, beside other directions at the same number of active ones."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from subscape._shapes import Float
from subscape.measures.oracle import best_codes
from subscape.scorecard.case import Case, Part
from subscape.scorecard.record import Column, Section, line, section
from subscape.scorecard.spans import centres, principal
from subscape.subnetworks.decomposition import Decomposition
from subscape.subnetworks.objective import error_of


def reconstruction(case: Case) -> Section:
    """FVU of the subnetworks, by their encoder and with the best codes, and of controls with the best codes."""
    n = len(case.decomposition)
    ours = reached(case.held, case.decomposition)
    lines = [line("subnetworks", ours.by_encoder, ours.best, ours.l0, ours=True)]
    for name, inner, between in families(case, n):
        best = best_codes(inner, between, ours.total, ours.l0, None)
        lines.append(line(name, None, best.fvu, best.l0))
    own = of_principal(case.held, n, ours)
    lines.append(line("principal, of the scored rows", None, own, ours.l0))
    columns = (Column("by its encoder", "low"), Column("best codes", "low"), Column("L0"))
    notes = (
        "Best codes: the best coefficients at this L0, which no encoder had to find; of the frozen random decoder "
        "too.",
        f"Principal directions and centres are of {len(case.fit):,} rows, fewer than a training sees, and of full "
        "rank; those of the scored rows themselves are flattered.",
    )
    return section("reconstruction", columns, lines, notes)


class Reached(NamedTuple):
    """How well subnetworks reconstruct rows."""

    by_encoder: float
    """FVU with the codes of the encoder, selected over all rows."""
    best: float
    """FVU with the best codes of the same L0."""
    l0: float
    """Active directions a row."""
    total: Tensor
    """Σ‖g‖²."""


@torch.no_grad()
def reached(part: Part, one: Decomposition) -> Reached:
    """How well a decomposition reconstructs rows."""
    total = part.gradients.squared_norm().double().sum()
    codes = one.dictionary.selection(part.inner(one.encoder)).double()
    l0 = float((codes != 0).double().sum(1).mean())
    projected, gram = part.inner(one.decoder).double(), one.decoder.gram().double()
    by_encoder = float(error_of(total, codes, projected, one.decoder, gram) / total)
    return Reached(by_encoder, best_codes(projected, gram, total, l0, None).fvu, l0, total)


@torch.no_grad()
def of_principal(part: Part, n: int, beside: Reached) -> float:
    """FVU of the principal directions of the rows themselves, with the best codes of the same L0."""
    gram = part.gradients.gram().double()
    span = principal(gram, n)
    return best_codes(span.inner(gram), span.gram, beside.total, beside.l0, None).fvu


def families(
    case: Case, n: int
) -> list[tuple[str, Float[Tensor, "row direction"], Float[Tensor, "direction direction"]]]:
    """Other directions, as many as subnetworks: their inner products with the rows and with each other."""
    random = case.random_decoder
    spans = {
        f"{n} principal directions": principal(case.gram, n),
        f"{n} k-means centres": centres(case.gram, n, case.config.seed),
    }
    found = [(name, span.inner(case.cross), span.gram) for name, span in spans.items()]
    drawn = case.held.inner(random).double()
    return [*found, ("frozen random decoder", drawn, random.gram().double())]
