"""TMCS: are the seeds that fail the search's fault, or is there no such direction?

    python experiments/tmcs_seeds.py --out runs/tmcs-seeds --write docs/open-questions.md

Claim: what fails with several starts fails because the loss has its minimum elsewhere. Every seed is
decomposed from four random starts and once more from its true directions. A start at the truth that leaves
it, and not for a higher FVU, is proof: no search by this loss can end there. Beside it the energy of the
second principal direction of single-feature gradients over that of the first, for the feature where it is
largest: near 1 a feature has no one direction. Control: the seeds that succeed. About 2 minutes on one core
for 20 seeds of both divergences.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from page import Record, draw, kept, main
from torch import Tensor
from trained import trained

from subscape import Decomposition, GradientSource, Target
from subscape.measures.recovery import Recovery, recovery
from subscape.reproduce.recipes import reproduction
from subscape.rows import generator_of
from subscape.subnetworks.evaluation import DEAD_RATE
from subscape.toys import TOYS, Toy, row_gradients, true_subnetworks

N_HELDOUT, N_SINGLE = 2_000, 512
DIVERGENCES = ("mse", "half-reference-mse")


@cache
def toys_of(seeds: int) -> list[Toy]:
    return TOYS["tmcs"](range(seeds))


def second(toy: Toy, divergence: str) -> float:
    """Energy of the second principal direction over that of the first, of the feature where it is largest."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for group in range(toy.n_groups):
        rows = row_gradients(
            toy,
            toy.single(group, N_SINGLE, generator),
            toy.sample(N_SINGLE, generator),
            divergence,
        )
        values = torch.linalg.svdvals(rows).square()
        found.append(float(values[1] / values[0]))
    return max(found)


def decomposed(seeds: int, divergence: str, steps: int, restarts: int) -> list[Record]:
    what = reproduction("tmcs")
    toys = toys_of(seeds)
    sources = [
        GradientSource(
            Target(t.model),
            t.sample(what.n_samples, generator_of(t.seed, 7, 0)),
            divergence=divergence,
            seed=2 * t.seed,
        )
        for t in toys
    ]
    held = [
        s.over(t.sample(N_HELDOUT, generator_of(t.seed, 7, 1)), seed=2 * t.seed + 1)
        for s, t in zip(sources, toys, strict=True)
    ]
    config = replace(what.training, steps=steps, n_restarts=restarts, n_heldout_rows=N_HELDOUT)
    truths = [true_subnetworks(t, divergence).directions for t in toys]
    runs = trained(sources, held, config)
    settled = replace(config, n_restarts=1, dense_warmup=0.0, resample_every=0)
    near = trained(sources, held, settled, truths)
    return [
        {
            "seed": toy.seed,
            "success": judged(run, truth, toy).success,
            "fvu": run.metrics["fvu"],
            "near_success": judged(start, truth, toy).success,
            "near_cosine": judged(start, truth, toy).min_cosine,
            "near_fvu": start.metrics["fvu"],
            "second": second(toy, divergence),
        }
        for toy, truth, run, start in zip(toys, truths, runs, near, strict=True)
    ]


def judged(result: Decomposition, truth: Tensor, toy: Toy) -> Recovery:
    alive = torch.tensor(result.metrics["active_rate"]) > DEAD_RATE
    return recovery(result.decoder.flat(), truth, alive=alive, represented=toy.represented)


def measure(out: Path, *, seeds: int = 20, steps: int = 1_500, restarts: int = 4) -> list[Record]:
    records = []
    for divergence in DIVERGENCES:
        runs = kept(
            out / f"{divergence}-{seeds}-{steps}-{restarts}.json",
            lambda divergence=divergence: decomposed(seeds, divergence, steps, restarts),
        )
        failed = [r for r in runs if not r["success"] or not r["near_success"]]
        for r in failed:
            if r["success"]:
                verdict = "found; the truth as a start is left"
            elif r["near_success"] and r["near_fvu"] < r["fvu"]:
                verdict = "the search's fault: the truth is kept, at a lower FVU"
            elif r["near_success"]:
                verdict = "the loss's: the truth is kept, but another minimum is lower"
            else:
                verdict = "no such direction: the truth is left for a lower FVU"
            records.append(r | {"divergence": divergence, "verdict": verdict})
        rest = [r for r in runs if r not in failed]
        if rest:
            means = {k: sum(r[k] for r in rest) / len(rest) for k in rest[0]}
            name = f"the other {len(rest)}, mean"
            records.append(
                means | {"divergence": divergence, "seed": name, "verdict": "found, and kept"}
            )
    return records


COLUMNS = {
    "divergence": "{divergence}",
    "seed": "{seed}",
    "FVU": "{fvu:.3f}",
    "trained from the truth": "{near_fvu:.3f}",
    "smallest cosine then": "{near_cosine:.2f}",
    "second direction's energy": "{second:.2f}",
    "verdict": "{verdict}",
}


def picture(path: Path, records: list[Record]) -> None:
    lines = {
        d: (
            [r["second"] for r in records if r["divergence"] == d],
            [r["near_cosine"] for r in records if r["divergence"] == d],
        )
        for d in DIVERGENCES
    }
    draw(path, lines, x="second energy / first", y="smallest cosine", joined=False)


if __name__ == "__main__":
    main("tmcs-seeds", __doc__, measure, COLUMNS, picture)
