"""How much of row gradients is left unexplained, beside other directions at the same number of active ones."""

from __future__ import annotations

import torch
from torch import Tensor

from subscape._shapes import Float
from subscape.measures.oracle import best_codes
from subscape.scorecard.case import Case
from subscape.scorecard.record import Column, Line, Section, line, section
from subscape.scorecard.spans import centres, principal
from subscape.subnetworks.objective import error_of


def reconstruction(case: Case) -> Section:
    """FVU of the subnetworks, by their encoder and with the best codes, and of controls with the best codes."""
    held, n = case.held, len(case.decomposition)
    squares = held.gradients.squared_norm().double()
    total = squares.sum()
    decoder = case.decomposition.decoder
    projected, gram = held.inner(decoder).double(), decoder.gram().double()
    by_encoder = float(error_of(total, case.codes.double(), projected, gram) / total)
    ours = best_codes(projected, gram, total, case.l0, None)
    lines = [line("subnetworks", by_encoder, ours.fvu, case.l0, ours=True)]
    own = principal_of_themselves(case, n, total)
    for name, inner, between in families(case, n):
        reached = best_codes(inner, between, total, case.l0, None)
        lines.append(line(name, None, reached.fvu, reached.l0))
    columns = (Column("by its encoder", "low"), Column("best codes", "low"), Column("L0"))
    notes = (
        "Best codes: the best coefficients at this L0, which no encoder had to find; of the frozen random decoder "
        "too.",
        f"Principal directions and centres are of {len(case.fit):,} rows, fewer than a training sees, and of full "
        "rank; those of the scored rows themselves are flattered.",
    )
    return section("reconstruction", columns, [*lines, own], notes)


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


def principal_of_themselves(case: Case, n: int, total: Tensor) -> Line:
    """Principal directions of the rows that are scored."""
    with torch.no_grad():
        gram = case.held.gradients.gram().double()
    span = principal(gram, n)
    reached = best_codes(span.inner(gram), span.gram, total, case.l0, None)
    return line("principal, of the scored rows", None, reached.fvu, reached.l0)
