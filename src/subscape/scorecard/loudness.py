"""How much of all squared gradient the loudest rows hold, and how well each share of rows is explained."""

from __future__ import annotations

import torch
from torch import Tensor

from subscape._shapes import Float
from subscape.gradients import GradientSource
from subscape.gradients.geometry import Geometry
from subscape.scorecard.case import Case
from subscape.scorecard.record import Column, Section, line, section

SHARE = 0.1


def loudness(case: Case) -> Section:
    """Of the gradients as they are and as the decomposition weighs them, and the FVU of loud and other rows."""
    source = case.held.source
    squares = case.held.gradients.squared_norm().double()
    plain = GradientSource(
        source.target,
        source.data,
        divergence=source.divergence,
        reference=source.reference,
        rows=source.kind,
        seed=source.seed,
        geometry=Geometry(),
        like=source,
    )
    as_they_are = case.held.gradients_of(plain).squared_norm().double()
    decoder = case.decomposition.decoder
    codes = case.codes.double()
    projected, gram = case.held.inner(decoder).double(), decoder.gram().double()
    error = squares + (codes * (codes @ gram - 2 * projected)).sum(1)
    loud = loudest(squares)
    lines = [
        line(
            "as the decomposition weighs them",
            share(squares),
            *fvu(error, squares, loud),
            ours=True,
        ),
        line("gradients as they are", share(as_they_are), None, None),
        line("rows of equal length", SHARE, None, None),
    ]
    columns = (
        Column("share in the loudest tenth", "", True),
        Column("FVU there", "low"),
        Column("FVU elsewhere", "low"),
    )
    return section("loudness", columns, lines)


def loudest(squares: Float[Tensor, " row"]) -> Tensor:
    """Which rows are the loudest tenth."""
    loud = torch.zeros(len(squares), dtype=torch.bool, device=squares.device)
    loud[squares.topk(max(1, round(SHARE * len(squares)))).indices] = True
    return loud


def share(squares: Float[Tensor, " row"]) -> float:
    """Share of the sum in the loudest tenth."""
    return float(squares[loudest(squares)].sum() / squares.sum())


def fvu(error: Tensor, squares: Tensor, loud: Tensor) -> tuple[float, float]:
    """Of the loud rows and of the others."""
    return tuple(float(error[at].sum() / squares[at].sum()) for at in (loud, ~loud))  # pyright: ignore[reportReturnType]
