"""Can subnetworks that are not active in a row be combined so that its output moves after all?

Projected gradient ascent on their coefficients, W0 + Σ c_k v_k, at the length of the δ that moves the rows of a
single subnetwork; beside random coefficients, and beside as many random directions, ascended and drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from subscape._shapes import Float, Int
from subscape.data import Samples, take, to_device
from subscape.divergences import Divergence
from subscape.lowrank import Stack
from subscape.lowrank.combination import Combination
from subscape.rows import generator_of
from subscape.scorecard.case import Case
from subscape.scorecard.record import Column, Section, left_out, line, section
from subscape.targets import Target

EARLY = 20
"""Steps after which one looks first."""
N_RANDOM = 10
"""Draws of random coefficients."""
STEP = 0.2
"""Of a step, as a share of the length."""


@dataclass(frozen=True)
class Row:
    """One row whose output is to be moved."""

    target: Target
    """The model and its parameters."""
    inputs: Samples
    """Its sample."""
    position: int | None
    """Its position; None where a sample is a row."""
    divergence: Divergence
    """Between outputs."""

    def output(self, change: Mapping[str, Tensor]) -> Float[Tensor, "one *output"]:
        """Its output with parameters moved."""
        outputs = self.target.outputs(self.inputs, self.target.moved(change))
        outputs = outputs.to(self.target.like.dtype)
        return outputs if self.position is None else outputs[:, self.position]


def adversary(case: Case, delta: float | None) -> Section:
    """At the δ of `selectivity`."""
    if delta is None:
        return left_out(
            "adversary", "no subnetwork that can be pushed, so there is no length to go"
        )
    n = min(case.config.n_attacked, len(case.held))
    pick = torch.randperm(len(case.held), generator=generator_of(case.config.seed, 47))[:n]
    found: dict[str, list[list[float]]] = {}
    for place in pick.tolist():
        row, idle = _row(case, place)
        if len(idle) < 2:
            continue
        active = (case.codes[place] != 0).nonzero()[:, 0]
        ours, chance = case.decomposition.directions, case.chance.directions
        generator = generator_of(case.config.seed, 48, place)
        for name, stack in (
            ("inactive subnetworks", ours.select(idle)),
            ("as many random directions", chance.select(idle)),
            ("the row's own active subnetworks", ours.select(active)),
        ):
            if len(stack.weights):
                moved = moves(row, stack, delta, case.config.n_ascent, generator)
                found.setdefault(name, []).append(moved)
    if not found:
        return left_out("adversary", "in no row two subnetworks are idle")
    lines = []
    for name, values in found.items():
        drawn, early, late = torch.tensor(values).double().nanmean(0).tolist()
        ratio = late / drawn if drawn > 0 else None
        lines.append(line(name, drawn, early, late, ratio, ours=name == "inactive subnetworks"))
    steps = case.config.n_ascent
    columns = (
        Column("random coefficients"),
        Column(f"{min(EARLY, steps)} steps"),
        Column(f"{steps} steps"),
        Column("ascent ÷ random", "low"),
    )
    unit = case.held.source.divergence.of_changes.unit
    notes = (
        f"Mean change of the output over {len(found['inactive subnetworks'])} rows, in {unit}, at length "
        f"{delta:.3g} in parameter space: the median δ of the subnetworks pushed above.",
    )
    return section("adversary", columns, lines, notes)


def _row(case: Case, place: int) -> tuple[Row, Int[Tensor, " idle"]]:
    """A row to score, and the subnetworks that are not active in it."""
    source, rows = case.held.source, case.held.rows
    sample = rows.samples[place : place + 1]
    inputs = to_device(take(source.data, sample), case.target.like.device)
    position = None if rows.position is None else int(rows.position[place])
    selection = case.decomposition.dictionary.selection
    active = selection.alone(case.held_coefficients[place : place + 1])[0] | (
        case.codes[place] != 0
    )
    row = Row(case.target, inputs, position, source.divergence.of_changes)
    return row, (~active).nonzero()[:, 0]


def moves(
    row: Row, stack: Stack, length: float, n_steps: int, generator: torch.Generator
) -> list[float]:
    """Change by random coefficients (mean of some), and the largest after some and after all steps of ascent."""
    combine, gram = Combination(stack), stack.gram()
    with torch.no_grad():
        own = row.output({})
        still = row.divergence(own, own)

    def on_sphere(c: Tensor) -> Tensor:
        return c * (length / (c @ gram @ c).clamp_min(1e-30).sqrt())

    def change(c: Tensor) -> Tensor:
        return (row.divergence(row.output(combine(c)), own) - still)[0]

    start = torch.randn(N_RANDOM, len(gram), generator=generator).to(gram)
    with torch.no_grad():
        drawn = torch.stack([change(on_sphere(c)) for c in start])
    finite = drawn.nan_to_num(0.0)
    c, best = on_sphere(start[finite.argmax()]), [float(finite.max())]
    for _ in range(n_steps):
        leaf = c.detach().requires_grad_(True)
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(change(leaf), leaf)
        if not bool(torch.isfinite(slope).all()) or not float(slope.norm()) > 0:
            break
        c = on_sphere(c + STEP * c.norm() * slope / slope.norm())
        with torch.no_grad():
            best.append(max(best[-1], float(change(c))))
    return [float(drawn.mean()), best[min(EARLY, len(best) - 1)], best[-1]]
