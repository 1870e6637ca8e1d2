"""The non-linear regime: how far do gradients predict, and how far does an edit have to go?

    SUBSCAPE_DATA=… python experiments/radius.py --out runs/radius --write docs/open-questions.md

Claim under test: an edit stays where gradients are valid. For single subnetworks, on the rows in which each
is largest: the δ at which the change of D that the gradient predicts is off by half, and the δ that moves the
rows' outputs by 0.1 nats (toys: a tenth of the mean divergence between rows). Median over subnetworks of
both, and the share of subnetworks of which the first is larger. Control: random directions of the same norms
and ranks. Reference `mean`. About 3 minutes on one core.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from adversarial import distance
from geometry_measures import Text
from page import Record, draw, kept, main
from stories import base, output_of_row
from torch import Tensor
from trained import trained

from subscape import Decomposition, FixedOutput, GradientSource, Target
from subscape.divergences import Divergence
from subscape.measures import random_like
from subscape.reproduce.recipes import reproduction
from subscape.rows import generator_of
from subscape.toys import TOYS

OFF = 0.5
N_TOP, N_PUSHED = 8, 20


def of_toy(name: str, seeds: int, steps: int) -> list[tuple[Decomposition, GradientSource]]:
    what = reproduction(name)
    toys = TOYS[what.toy](range(seeds))
    sources = [
        GradientSource(
            Target(t.model),
            t.sample(what.n_samples, generator_of(t.seed, 7, 0)),
            reference="mean",
            seed=2 * t.seed,
        )
        for t in toys
    ]
    held = [
        s.over(t.sample(512, generator_of(t.seed, 7, 1)), seed=2 * t.seed + 1)
        for s, t in zip(sources, toys, strict=True)
    ]
    config = replace(what.training, steps=steps, n_heldout_rows=512)
    return list(zip(trained(sources, held, config), held, strict=True))


@dataclass(frozen=True)
class Pushed:
    """A row under a push along one direction."""

    output: Callable[[Tensor], Tensor]
    one: Tensor
    own: Tensor
    slope: float
    divergence: Divergence

    def off(self, delta: float, against: Tensor) -> float:
        """By what share the change of D differs from what the gradient predicts."""
        values = (self.divergence(f, against)[0] for f in (self.output(delta * self.one), self.own))
        change, predicted = float(next(values) - next(values)), delta * self.slope
        return abs(change - predicted) / max(abs(predicted), 1e-30)

    def moved(self, delta: float) -> float:
        """How far the output moves, mean over both signs."""
        both = (self.output(sign * delta * self.one) for sign in (1, -1))
        return mean(float(self.divergence(f, self.own)[0]) for f in both)


@torch.no_grad()
def figures(result: Decomposition, source: GradientSource, n_samples: int) -> Record:
    rows = source.rows_of(torch.arange(n_samples))
    gradients = source.gradients(rows)
    divergence, reference = source.divergence, source.reference
    assert isinstance(reference, FixedOutput)
    own, against = source.outputs_at(rows), reference.output[None]
    aim = 0.1 if divergence.logits else 0.1 * float(divergence(own, own.roll(1, 0)).mean())
    per_sample = len(rows) // n_samples
    # Slopes of D along pushes, whatever the metric of the codes: gradients are to be those of the parameters.
    plain = GradientSource(
        source.target,
        source.data,
        divergence=divergence,
        reference=reference,
        rows=source.kind,
    )
    slopes_of = plain.gradients(plain.rows_of(torch.arange(n_samples)))
    sizes = result.coefficients(gradients).abs()
    found: Record = {}
    for name, directions in (
        ("", result.directions),
        (" random", random_like(result.directions)),
    ):
        slopes = slopes_of.inner(directions)
        valid, needed = [], []
        for k in range(min(N_PUSHED, len(result))):
            top = sizes[:, k].topk(N_TOP).indices.tolist()
            one = torch.nn.functional.one_hot(torch.tensor(k), len(result)).to(own)
            pushed = [
                Pushed(
                    output_of_row(source, directions, row, per_sample),
                    one,
                    own[[row]],
                    slope,
                    divergence,
                )
                for row, slope in zip(top, slopes[top, k].tolist(), strict=True)
            ]
            ends = (
                distance(lambda d, p=pushed: median(r.off(d, against) for r in p), aim=OFF),
                distance(lambda d, p=pushed: median(r.moved(d) for r in p), aim=aim),
            )
            if None not in ends:
                valid.append(ends[0])
                needed.append(ends[1])
        found[f"valid{name}"], found[f"needed{name}"] = median(valid), median(needed)
        found[f"within{name}"] = mean(v >= n for v, n in zip(valid, needed, strict=True))
    return found


def measure(
    out: Path,
    *,
    seeds: int = 3,
    steps: int = 800,
    stories_steps: int = 200,
    n_samples: int = 64,
    names: tuple[str, ...] = ("tms", "squared", "stories260k"),
) -> list[Record]:
    records = []
    for name in names:

        def make(name: str = name) -> list[Record]:
            runs: Any
            if name == "stories260k":
                runs = [base(out.parent / "stories", Text.load(), steps=stories_steps)]
            else:
                runs = of_toy(name, seeds, steps)
            return [figures(result, source, n_samples) for result, source in runs]

        runs = kept(out / f"{name}-{seeds}-{steps}-{stories_steps}.json", make)
        means = {k: mean(r[k] for r in runs) for k in runs[0]}
        for which in ("", " random"):
            records.append({
                "model": name,
                "directions": which.strip() or "subnetworks",
                **{k: means[f"{k}{which}"] for k in ("valid", "needed", "within")},
            })
    return records


COLUMNS = {
    "model": "{model}",
    "directions": "{directions}",
    "δ at which gradients are off by half": "{valid:.3g}",
    "δ that an edit needs": "{needed:.3g}",
    "edits within": "{within:.0%}",
}


def picture(path: Path, records: list[Record]) -> None:
    at = list(range(len(records)))
    lines = {
        "valid / needed": (at, [r["valid"] / r["needed"] for r in records]),
        "edits within": (at, [r["within"] for r in records]),
    }
    draw(path, lines, x="line of the table", y="ratio, share", joined=False)


if __name__ == "__main__":
    main("radius", __doc__, measure, COLUMNS, picture)
