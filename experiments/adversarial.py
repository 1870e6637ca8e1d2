"""Adversarial combinations: can subnetworks that are inactive in a row be combined so as to change that row?

    SUBSCAPE_DATA=… python experiments/adversarial.py --out runs/adversarial --write docs/open-questions.md

Claim: what is inactive in a row does not matter to it, whatever the combination. For every row the
coefficients of its inactive subnetworks are chosen by projected gradient ascent on the change of the row's
output, ‖c‖ = the δ that moves a subnetwork's own top rows by 0.1 nats (toys: by a tenth of the mean
divergence between rows); 20 to 320 steps. Controls: random coefficients of the same subnetworks and length,
the same ascent over as many random directions of the same norms and ranks, and of a toy over the true
directions of features that are 0 in the row. (A neighbour's published figures: a KL of .83 after 20 steps, 40
after 320.) About 8 minutes on one core. Expected: at most 1.5 times random coefficients on toys, 3 times on
stories260k.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean, median

import torch
from geometry_measures import Text
from page import Record, draw, kept, main
from stories import base, output_of_row
from torch import Tensor
from trained import trained

from subscape import Decomposition, GradientSource, Target
from subscape.lowrank import Stack
from subscape.lowrank.project import project
from subscape.lowrank.stack import unit
from subscape.measures import random_like
from subscape.reproduce.recipes import reproduction
from subscape.rows import generator_of
from subscape.toys import TOYS, true_subnetworks

STEPS = (20, 80, 320)
N_RANDOM = 20
Change = Callable[[Tensor], Tensor]
"""From coefficients to what the row's output moves by."""


Run = tuple[Decomposition, GradientSource, Tensor | None]
"""A decomposition, its rows, and of a toy its true directions."""


def of_toy(name: str, seeds: int, steps: int) -> list[Run]:
    what = reproduction(name)
    toys = TOYS[what.toy](range(seeds))
    sources = [
        GradientSource(
            Target(t.model), t.sample(what.n_samples, generator_of(t.seed, 7, 0)), seed=2 * t.seed
        )
        for t in toys
    ]
    held = [
        s.over(t.sample(512, generator_of(t.seed, 7, 1)), seed=2 * t.seed + 1)
        for s, t in zip(sources, toys, strict=True)
    ]
    config = replace(what.training, steps=steps, n_heldout_rows=512)
    truths = [true_subnetworks(t).directions.float() for t in toys]
    return list(zip(trained(sources, held, config), held, truths, strict=True))


def figures(
    result: Decomposition,
    source: GradientSource,
    truth: Tensor | None,
    *,
    n_samples: int,
    n_rows: int,
    steps: int,
) -> Record:
    """KL, or squared error, of chosen and of random combinations, over some rows."""
    samples = torch.arange(n_samples)
    rows = source.rows_of(samples)
    coefficients = result.coefficients(source.gradients(rows))
    inactive = ~result.dictionary.selection.alone(coefficients)
    per_sample, divergence = len(rows) // n_samples, source.divergence
    own = source.outputs_at(rows)
    aim = 0.1
    if not divergence.logits:  # of toys, which have another unit
        aim = 0.1 * float(divergence(own, own.roll(1, 0)).mean())

    def changes(directions: Stack, row: int) -> Change:
        output = output_of_row(source, directions, row, per_sample)

        def moved(c: Tensor) -> Tensor:
            return divergence(output(c), own[[row]])[0]

        return moved

    n = len(result)
    pushed = []
    for k in range(min(n, 20)):
        one = torch.nn.functional.one_hot(torch.tensor(k), n).to(own)
        top = coefficients[:, k].abs().topk(8).indices.tolist()
        moves = [changes(result.directions, row) for row in top]
        pushed.append(
            distance(lambda d, m=moves, o=one: median(float(f(d * o)) for f in m), aim=aim)
        )
    length = median(d for d in pushed if d is not None)
    picked = torch.randperm(len(own), generator=generator_of(0, 70))[:n_rows].tolist()
    chance = random_like(result.directions)
    found: Record = {"length": length, "aim": aim}
    variants = [("", result.directions, inactive), (" of random directions", chance, inactive)]
    if truth is not None:
        assert isinstance(source.data, Tensor)
        true = unit(project(result.layout, truth))
        variants.append((" of true directions", true, source.data[samples] == 0))
    for name, directions, allowed in variants:
        of_rows = [
            ascend(changes(directions, row), allowed[row].to(own), length, steps, row)
            for row in picked
        ]
        found[f"random{name}"] = mean(r["random"] for r in of_rows)
        for step in of_rows[0]["chosen"]:
            found[f"chosen{name} {step}"] = mean(r["chosen"][step] for r in of_rows)
    return found


@torch.no_grad()
def distance(size: Callable[[float], float], *, aim: float) -> float | None:
    """How far to go until the change is the one aimed at, by bisection of the exponent."""
    low, high = 1e-4, 1e4
    if size(high) < aim:
        return None
    for _ in range(24):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if size(middle) < aim else (low, middle)
    return (low * high) ** 0.5


def ascend(change: Change, allowed: Tensor, length: float, steps: int, seed: int) -> Record:
    """Random and chosen combinations of what is allowed, of that length."""
    generator = generator_of(seed, 71)

    def on_sphere(c: Tensor) -> Tensor:
        c = c * allowed
        return length * c / c.norm().clamp_min(1e-30)

    drawn = [on_sphere(torch.randn(len(allowed), generator=generator)) for _ in range(N_RANDOM)]
    with torch.no_grad():
        at_random = [float(change(c)) for c in drawn]
    c, best, chosen = drawn[0], max(at_random), {}
    for step in range(1, steps + 1):
        leaf = c.clone().requires_grad_(True)
        with torch.enable_grad():
            value = change(leaf)
            slope = torch.autograd.grad(value, leaf)[0] * allowed
        best = max(best, float(value.detach()))
        size = 0.3 * length * (1 - step / (steps + 1))
        c = on_sphere(c + size * slope / slope.norm().clamp_min(1e-30))
        if step in STEPS or step == steps:
            chosen[step] = best
    return {"random": mean(at_random), "chosen": chosen}


SHOWN = {
    "": "subnetworks",
    " of random directions": "random, of equal norms and ranks",
    " of true directions": "the toy's true ones",
}


def measure(
    out: Path,
    *,
    seeds: int = 2,
    toy_steps: int = 1_500,
    stories_steps: int = 200,
    n_rows: int = 16,
    steps: int = 320,
    names: tuple[str, ...] = ("tms", "tmcs", "stories260k"),
) -> list[Record]:
    records = []
    for name in names:

        def make(name: str = name) -> list[Record]:
            if name == "stories260k":
                runs = [(*base(out.parent / "stories", Text.load(), steps=stories_steps), None)]
            else:
                runs = of_toy(name, seeds, toy_steps)
            return [figures(*run, n_samples=64, n_rows=n_rows, steps=steps) for run in runs]

        runs = kept(out / f"{name}-{seeds}-{n_rows}-{steps}.json", make)
        for which, shown in SHOWN.items():
            if f"random{which}" not in runs[0]:
                continue
            chosen = {
                int(k.rsplit(" ", 1)[1]): mean(r[k] for r in runs)
                for k in runs[0]
                if k.startswith(f"chosen{which} ") and k.rsplit(" ", 1)[0] == f"chosen{which}"
            }
            at_random = mean(r[f"random{which}"] for r in runs)
            records.append({
                "what": name,
                "directions": shown,
                "aim": mean(r["aim"] for r in runs),
                "random": at_random,
                "chosen": chosen,
                "most": max(chosen.values()),
                "ratio": max(chosen.values()) / at_random,
                "first": chosen[min(chosen)] / at_random,
            })
    return records


COLUMNS = {
    "model": "{what}",
    "directions": "{directions}",
    "a row moves by its own": "{aim:.3g}",
    "inactive, random coefficients": "{random:.3g}",
    "chosen": "{most:.3g}",
    "chosen / random": "{ratio:.1f}",
    "after 20 steps": "{first:.1f}",
}


def picture(path: Path, records: list[Record]) -> None:
    lines = {
        f"{r['what']}, {r['directions']}": (
            [int(step) for step in r["chosen"]],
            [value / r["random"] for value in r["chosen"].values()],
        )
        for r in records
    }
    draw(path, lines, x="steps of ascent", y="chosen / random", log_x=True)


if __name__ == "__main__":
    main("adversarial", __doc__, measure, COLUMNS, picture)
