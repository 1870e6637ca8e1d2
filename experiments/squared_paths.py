"""X→X² of the paper: are all five paths found, and if not, is it the search or the loss?

    python experiments/squared_paths.py --out runs/squared-paths --write docs/open-questions.md

Claim: five subnetworks of rank 2 are the five paths from an input to its own output (arXiv 2504.00194, sec.
4.1.4). Twenty targets trained as in the paper are decomposed under several ways of training; judged by paths,
beside the oracle of one direction for each input at the same L0. Control: training started from the five true
directions. If that leaves them, with a lower FVU, no better search will find them. About 12 minutes on one
core, most of it for the targets. Expected: all paths in at least 19 of 20.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from page import Record, draw, kept, main
from trained import trained

from subscape._io import read_tensors, write_tensors
from subscape.gradients import GradientSource
from subscape.measures.oracle import oracle
from subscape.reproduce.paths import paths
from subscape.reproduce.recipes import PUBLISHED, reproduction
from subscape.rows import generator_of
from subscape.subnetworks.evaluation import DEAD_RATE
from subscape.targets import Target
from subscape.toys import Toy, ToyTraining, squared, true_subnetworks
from subscape.training import TrainingConfig

N_HELDOUT = 2_000
PLAIN = {"resample_every": 0}
SETTINGS: dict[str, dict[str, Any]] = {
    "ours": {},
    "ours, 8 starts": {"n_restarts": 8},
    "ours, 8 starts, 6,000 steps": {"n_restarts": 8, "steps": 6_000},
    "no resampling": PLAIN,
    "no resampling, 8 starts": PLAIN | {"n_restarts": 8},
    "no resampling, 6,000 steps": PLAIN | {"steps": 6_000},
    "no resampling, no dense warm-up": PLAIN | {"dense_warmup": 0.0},
    "published": PUBLISHED | PLAIN | {"samples": 1_000},
    "published, no dense warm-up": PUBLISHED | PLAIN | {"dense_warmup": 0.0, "samples": 1_000},
    "from the true directions": PLAIN | {"dense_warmup": 0.0, "from_truth": True},
}


def targets(out: Path, seeds: int, steps: int) -> list[Toy]:
    """The paper's targets; trained once, then from their file."""
    file = out / f"targets-{seeds}-{steps}.safetensors"
    if not file.exists():
        out.mkdir(parents=True, exist_ok=True)
        toys = squared.many(range(seeds), variant="published", training=training_of_targets(steps))
        write_tensors(
            file,
            {f"{t.seed}.{k}": v.detach() for t in toys for k, v in t.model.state_dict().items()},
        )
    values = read_tensors(file)
    # A step of training makes the toys, their trained values then come from the file.
    toys = squared.many(range(seeds), variant="published", training=training_of_targets(1))
    for toy in toys:
        prefix = f"{toy.seed}."
        toy.model.load_state_dict({
            k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)
        })
    return toys


def training_of_targets(steps: int) -> ToyTraining:
    return ToyTraining(
        n_steps=steps, learning_rate=1e-3, n_candidates=1, schedule="constant", weight_decay=1e-3
    )


def decomposed(toys: list[Toy], options: dict[str, Any]) -> list[Record]:
    """Figures of every seed."""
    options = dict(options)
    what = reproduction("squared-published")
    samples, from_truth = options.pop("samples", what.n_samples), options.pop("from_truth", False)
    config: TrainingConfig = replace(
        what.training, **({"steps": 2_000, "n_restarts": 2} | options), n_heldout_rows=N_HELDOUT
    )
    train = [
        GradientSource(
            Target(toy.model),
            toy.sample(samples, generator_of(toy.seed, 7, 0)),
            divergence=what.divergence,
            seed=2 * toy.seed,
        )
        for toy in toys
    ]
    held = [
        source.over(toy.sample(N_HELDOUT, generator_of(toy.seed, 7, 1)), seed=2 * toy.seed + 1)
        for source, toy in zip(train, toys, strict=True)
    ]
    truths = [true_subnetworks(toy, what.divergence) for toy in toys]
    starts = [t.directions for t in truths] if from_truth else None
    results = trained(train, held, config, starts)
    figures = []
    for toy, source, truth, result in zip(toys, held, truths, results, strict=True):
        weights = [v for k, v in result.decoder.dense().items() if k.endswith("weight")]
        alive = torch.tensor(result.metrics["active_rate"]) > DEAD_RATE
        led = paths(weights[0], weights[-1], alive=alive)
        rows = source.gradients(source.rows(0, len(source)))
        figures.append({
            "seed": toy.seed,
            "fvu": result.metrics["fvu"],
            "oracle": oracle(rows.flat, truth.directions, result.metrics["l0"]).fvu,
            "paths": led.n_found,
            "all": led.all_found,
        })
    return figures


def measure(
    out: Path,
    *,
    seeds: int = 20,
    target_steps: int = 78_000,
    steps: int | None = None,
    settings: tuple[str, ...] = tuple(SETTINGS),
) -> list[Record]:
    toys = targets(out, seeds, target_steps)
    records = []
    for number, (name, options) in enumerate(SETTINGS.items()):
        if name not in settings:
            continue
        options = options if steps is None else options | {"steps": steps}
        runs = kept(
            out / f"{number}-{seeds}-{target_steps}-{steps}.json",
            lambda options=options: decomposed(toys, options),
        )
        fvu, best = (sum(r[key] for r in runs) / seeds for key in ("fvu", "oracle"))
        records.append({
            "name": name,
            "settings": {k: str(v) for k, v in options.items()},
            "seeds": seeds,
            "fvu": fvu,
            "oracle": best,
            "all": sum(r["all"] for r in runs),
            "paths": sum(r["paths"] for r in runs),
            "total": 5 * seeds,
            "failed": [r["seed"] for r in runs if not r["all"]],
            "runs": runs,
        })
    return records


def picture(path: Path, records: list[Record]) -> None:
    lines = {
        r["name"]: ([run["oracle"] for run in r["runs"]], [run["fvu"] for run in r["runs"]])
        for r in records
    }
    draw(path, lines, x="FVU of the oracle by input", y="FVU", joined=False)


COLUMNS = {
    "training": "{name}",
    "FVU": "{fvu:.3f}",
    "oracle by input": "{oracle:.3f}",
    "all five paths": "{all} of {seeds}",
    "paths": "{paths} of {total}",
    "failed seeds": "{failed}",
}

if __name__ == "__main__":
    main("squared-paths", __doc__, measure, COLUMNS, picture)
