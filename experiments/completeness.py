"""Completeness: how many subnetworks are there, and does the figure that training lowers say so?

    SUBSCAPE_DATA=… python experiments/completeness.py --out runs/completeness --write docs/open-questions.md

Claim under test: the right number of subnetworks can be read off. TMS 40-10 with 20 to 80 subnetworks at a
fixed L0 of 4; control: k · n varying, L0 a tenth of the number. Per setting FVU, features matched, and how
many of them were split (a second subnetwork within .5). stories260k: 25 to 400 subnetworks at L0 5, FVU on
rows trained on against rows held out. About 10 minutes on one core. Expected: FVU keeps falling past 40,
without a bend; split ones rise.
"""

from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from geometry_measures import Text
from page import Record, draw, kept, main
from stories import base
from trained import trained

from subscape import GradientSource, Target
from subscape.measures.recovery import MATCHED, SPLIT, absolute_cosines, recovery
from subscape.reproduce.recipes import reproduction
from subscape.rows import generator_of
from subscape.subnetworks.evaluation import DEAD_RATE
from subscape.toys import TOYS, Toy, true_subnetworks

N_HELDOUT = 2_000
NUMBERS = (20, 30, 40, 50, 80)
STORIES = (25, 100, 400)


def of_toys(toys: list[Toy], number: int, l0: float, steps: int) -> list[Record]:
    what = reproduction("tms-40-10")
    sources = [
        GradientSource(
            Target(t.model), t.sample(what.n_samples, generator_of(t.seed, 7, 0)), seed=2 * t.seed
        )
        for t in toys
    ]
    held = [
        s.over(t.sample(N_HELDOUT, generator_of(t.seed, 7, 1)), seed=2 * t.seed + 1)
        for s, t in zip(sources, toys, strict=True)
    ]
    config = replace(
        what.training, n_subnetworks=number, l0=l0, steps=steps, n_heldout_rows=N_HELDOUT
    )
    found = []
    for toy, result in zip(toys, trained(sources, held, config), strict=True):
        truth = true_subnetworks(toy).directions
        flat = result.decoder.flat()
        alive = torch.tensor(result.metrics["active_rate"]) > DEAD_RATE
        compared = recovery(flat, truth, alive=alive, represented=toy.represented)
        near = (absolute_cosines(truth, flat[alive]) >= SPLIT).sum(1)
        found.append({
            "fvu": result.metrics["fvu"],
            "l0": result.metrics["l0"],
            "matched": float((compared.cosine >= MATCHED).double().mean()),
            "split": float((near > 1).double().mean()),
            "alive": int(alive.sum()),
        })
    return found


def of_stories(folder: Path, text: Text, number: int, steps: int) -> list[Record]:
    result, source = base(folder, text, steps=steps, n_subnetworks=number)
    seen = result.evaluate(text.model, text.trained, n_rows=2_048)
    return [
        {
            "fvu": result.metrics["fvu"],
            "trained": float(seen.fvu),
            "l0": result.metrics["l0"],
            "alive": sum(r > DEAD_RATE for r in result.metrics["active_rate"]),
        }
    ]


def measure(
    out: Path,
    *,
    seeds: int = 4,
    steps: int = 1_500,
    numbers: tuple[int, ...] = NUMBERS,
    stories: tuple[int, ...] = STORIES,
    stories_steps: int = 200,
    **toy: Any,
) -> list[Record]:
    toys = TOYS["tms-40-10"](range(seeds), **toy)
    records = []
    for fixed in (True, False):
        for number in numbers:
            l0 = 4.0 if fixed else number / 10
            runs = kept(
                out / f"tms-{number}-{l0}-{seeds}-{steps}.json",
                lambda number=number, l0=l0: of_toys(toys, number, l0, steps),
            )
            records.append({"model": "TMS 40-10", "number": number} | averages(runs))
    if not stories:
        return records
    text = Text.load()
    for number in stories:
        runs = kept(
            out / f"stories-{number}-{stories_steps}.json",
            lambda number=number: of_stories(out.parent / "stories", text, number, stories_steps),
        )
        records.append({"model": "stories260k", "number": number} | averages(runs))
    return records


def averages(runs: list[Record]) -> Record:
    means = {key: mean(r[key] for r in runs) for key in runs[0]}
    blank = {"matched": float("nan"), "split": float("nan"), "trained": float("nan")}
    return blank | means


COLUMNS = {
    "model": "{model}",
    "subnetworks": "{number}",
    "L0": "{l0:.1f}",
    "FVU": "{fvu:.3f}",
    "FVU of rows trained on": "{trained:.3f}",
    "features matched": "{matched:.0%}",
    "features split": "{split:.0%}",
    "alive": "{alive:.0f}",
}


def picture(path: Path, records: list[Record]) -> None:
    lines = {}
    for model in ("TMS 40-10", "stories260k"):
        every = [r for r in records if r["model"] == model]
        half = len(every) // 2 if model.startswith("TMS") else len(every)
        for name, some in (("fixed L0", every[:half]), ("a tenth active", every[half:])):
            if some:
                at = [r["number"] for r in some]
                lines[f"{model}, {name}"] = (at, [r["fvu"] for r in some])
    draw(path, lines, x="subnetworks", y="FVU", log_x=True)


if __name__ == "__main__":
    main("completeness", __doc__, measure, COLUMNS, picture)
