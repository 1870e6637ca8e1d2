"""Reproduce the published toys over many seeds: train targets, decompose, compare with the truth.

A seed draws the target, its data and the decomposition. All seeds run side by side in vectorised runs; a
seed's draws do not depend on the others. Features that a target does not represent have no circuit and
are left out of the count (`target_complete` in the summary is the number of seeds without such a feature;
toys are trained several times and the best is kept, see `subscape.toys`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm.auto import tqdm

from subscape._checks import nearest, require
from subscape.gradients import GradientSource
from subscape.measures.mixing import MixingRecovery, mixing_recovery
from subscape.measures.oracle import oracle
from subscape.measures.purity import purity
from subscape.measures.recovery import MATCHED, recovery
from subscape.rows import generator_of
from subscape.subnetworks.decomposition import Decomposition
from subscape.subnetworks.evaluation import DEAD_RATE
from subscape.targets import Target
from subscape.toys import TOYS, Toy, Truth, true_subnetworks
from subscape.training import TrainingConfig, train_side_by_side

Recipe = Literal["default", "published"]


@dataclass(frozen=True)
class Reproduction:
    """What is reproduced, and how."""

    name: str
    """Name on the command line."""
    toy: str
    """Key of `subscape.toys.TOYS`."""
    divergence: str = "mse"
    """The divergence."""
    n_samples: int = 4_000
    """Inputs trained on."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Settings of the decomposition."""


DEFAULT = TrainingConfig(
    rank=1, steps=5_000, batch_size=128, learning_rate=0.01, schedule="cosine", resample_every=200
)
PUBLISHED = {
    "steps": 32_000,
    "batch_size": 32,
    "learning_rate": 0.01,
    "schedule": "step",
    "decay_every": 3_200,
}
"""1,000 samples, batches of 32, 1,000 epochs, ×0.8 every 100 epochs (arXiv 2504.00194, sec. 4.1).

The dense warm-up is in the authors' code only; resampling is ours (`--resample-every 0` leaves it out)."""
PUBLISHED_SAMPLES = 1_000

REPRODUCTIONS = {
    r.name: r
    for r in (
        Reproduction("tms", "tms", training=replace(DEFAULT, n_subnetworks=5)),
        Reproduction("tms-parallel", "tms-parallel", training=replace(DEFAULT, n_subnetworks=15)),
        Reproduction("tms-40-10", "tms-40-10", training=replace(DEFAULT, n_subnetworks=40)),
        Reproduction("tms-identity", "tms-identity", training=replace(DEFAULT, n_subnetworks=5)),
        Reproduction("tmcs", "tmcs", training=replace(DEFAULT, n_subnetworks=10)),
        Reproduction("high-rank", "high-rank", training=replace(DEFAULT, n_subnetworks=10, rank=3)),
        Reproduction(
            "squared",
            "squared-code",
            "half-reference-mse",
            training=replace(DEFAULT, n_subnetworks=10, rank=2),
        ),
        Reproduction(
            "squared-paper",
            "squared",
            "half-reference-mse",
            training=replace(DEFAULT, n_subnetworks=10, rank=2),
        ),
    )
}


def reproduction(name: str, recipe: Recipe = "default") -> Reproduction:
    """The settings of a named reproduction.

    Args:
        name: a key of `REPRODUCTIONS`.
        recipe: `default`, ours, or `published`: the paper's samples, batch, steps and schedule.

    Returns:
        The settings.
    """
    require(
        name in REPRODUCTIONS,
        "name",
        f"one of {list(REPRODUCTIONS)}",
        repr(name),
        nearest(name, REPRODUCTIONS),
    )
    found = REPRODUCTIONS[name]
    if recipe == "published":
        training = replace(found.training, **PUBLISHED)
        return replace(found, training=training, n_samples=PUBLISHED_SAMPLES)
    return found


def reproduce(
    what: Reproduction, seeds: Sequence[int], *, side_by_side: int = 20, progress: bool = True
) -> dict[str, Any]:
    """Run a reproduction over seeds.

    Args:
        what: the settings.
        seeds: one target and one decomposition each.
        side_by_side: how many seeds share a vectorised run.
        progress: show progress bars.

    Returns:
        `{"name", "settings", "runs": [one per seed], "summary"}`, ready for JSON.
    """
    runs: list[dict[str, Any]] = []
    groups = [list(seeds[i : i + side_by_side]) for i in range(0, len(seeds), side_by_side)]
    for group in tqdm(groups, disable=not progress or len(groups) == 1, desc=what.name):
        toys = TOYS[what.toy](group)
        runs += _run_group(what, toys, group, progress and len(groups) == 1)
    return {"name": what.name, "settings": asdict(what), "runs": runs, "summary": summarise(runs)}


def _run_group(
    what: Reproduction, toys: list[Toy], seeds: list[int], progress: bool
) -> list[dict[str, Any]]:
    sources = [
        _source(what, toy, seed, 0, what.n_samples) for toy, seed in zip(toys, seeds, strict=True)
    ]
    heldout = [_source(what, toy, seed, 1, 2_000) for toy, seed in zip(toys, seeds, strict=True)]
    config = replace(what.training, n_heldout_rows=2_000)
    started = time.perf_counter()
    found = train_side_by_side(sources, heldout, config, progress=progress)
    seconds = (time.perf_counter() - started) / len(seeds)
    return [
        {"seed": seed, **_figures(what, toy, dec, held), "seconds": seconds}
        for seed, toy, dec, held in zip(seeds, toys, found, heldout, strict=True)
    ]


def _source(what: Reproduction, toy: Toy, seed: int, part: int, n: int) -> GradientSource:
    inputs = toy.sample(n, generator_of(seed, 7, part))
    return GradientSource(
        Target(toy.model), inputs, divergence=what.divergence, seed=2 * seed + part
    )


def _figures(
    what: Reproduction, toy: Toy, dec: Decomposition, heldout: GradientSource
) -> dict[str, Any]:
    truth = true_directions(toy, what.divergence)
    represented = toy.represented.repeat(len(truth.directions) // toy.n_groups)
    alive = torch.tensor(dec.metrics["active_rate"]) > DEAD_RATE
    directions = dec.decoder.flat()
    compared = recovery(directions, truth.directions, alive=alive, represented=represented)
    batch = heldout.rows(0, len(heldout))
    gradients = heldout.gradients(batch)
    best = oracle(gradients.flat, truth.directions, dec.metrics["l0"])
    figures = {
        "divergence": what.divergence,
        "n_restarts": what.training.n_restarts,
        "fvu": dec.metrics["fvu"],
        "fvu_of_batches": dec.metrics["fvu_of_batches"],
        "fvu_oracle": best.fvu,
        "l0": dec.metrics["l0"],
        "mmcs": compared.mmcs,
        "min_cosine": compared.min_cosine,
        "second_cosine": compared.second_cosine,
        "precision": compared.precision,
        "matched": compared.n_matched,
        "truths": compared.n_truths,
        "all_matched": compared.all_matched,
        "success": compared.success,
        "dead": dec.metrics["dead"],
        "active_rate": dec.metrics["active_rate"],
        "energy": truth.energy.mean().item(),
        "target_loss": toy.final_loss,
        "target_complete": toy.all_represented,
        "steps": what.training.steps,
        "fvu_of_restarts": dec.metrics["fvu_of_restarts"],
    }
    if toy.mixing is not None and what.toy == "tmcs":
        figures |= _mixing_figures(toy, dec, alive)
    if toy.inputs.low < 0:
        by_sign = (compared.cosine >= MATCHED).unflatten(0, (2, toy.n_groups))
        figures |= {"paths": int(by_sign.any(0).sum()), "all_paths": bool(by_sign.any(0).all())}
    if what.toy == "high-rank":
        found = dec.dictionary.reconstruct(gradients)
        inputs = heldout.data
        assert isinstance(inputs, Tensor)
        groups = toy.inputs.active_groups(inputs[batch.samples])
        pure = purity(found.codes, groups, alive=alive)
        figures |= {"purity": pure.mean, "groups_fired_for": pure.n_groups}
    return figures


def true_directions(toy: Toy, divergence: str) -> Truth:
    """The toy's true subnetworks; inputs of two signs have a circuit for each.

    A network that squares passes positive and negative inputs through different units: their gradients
    are nearly orthogonal (|cos| about 0.2), so one direction cannot stand for both.

    Args:
        toy: the toy.
        divergence: name of the divergence.

    Returns:
        One direction per group; for inputs of two signs the positive ones' first, then the others'.
    """
    if toy.inputs.low >= 0:
        return true_subnetworks(toy, divergence)
    halves = [
        true_subnetworks(replace(toy, inputs=replace(toy.inputs, low=low, high=high)), divergence)
        for low, high in ((0.0, toy.inputs.high), (toy.inputs.low, 0.0))
    ]
    return Truth(
        torch.cat([half.directions for half in halves]), torch.cat([half.energy for half in halves])
    )


def _mixing_figures(toy: Toy, dec: Decomposition, alive: Tensor) -> dict[str, Any]:
    dense = dec.decoder.dense()
    parameters = {name: p.detach() for name, p in toy.model.named_parameters()}
    assert toy.mixing is not None
    read: MixingRecovery = mixing_recovery(
        dense["W_in"],
        dense["W_out"],
        parameters["W_in"],
        parameters["W_out"],
        toy.mixing,
        alive=alive,
    )
    return {
        "pearson_published": read.published.pearson,
        "pearson_change": read.change.pearson,
        "r2_target": read.change.r_squared,
        "r2_read_out": read.read_out.r_squared,
        "mixing_features": read.n_features,
    }


def summarise(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and spread of the figures over seeds, and how many seeds succeeded.

    Args:
        runs: as `reproduce` makes them.

    Returns:
        Figures by name: numbers as mean, minimum and maximum; verdicts as counts.
    """
    summary: dict[str, Any] = {"seeds": len(runs)}
    for key, value in runs[0].items():
        values = [run[key] for run in runs]
        if isinstance(value, bool):
            summary[key] = sum(values)
        elif isinstance(value, float):
            t = torch.tensor(values, dtype=torch.float64)
            summary[key] = {
                "mean": t.mean().item(),
                "std": t.std(correction=0).item(),
                "min": t.min().item(),
                "max": t.max().item(),
            }
    summary["matched"] = sum(run["matched"] for run in runs)
    summary["truths"] = sum(run["truths"] for run in runs)
    summary["oracle_gap"] = summary["fvu"]["mean"] - summary["fvu_oracle"]["mean"]
    summary["failed_seeds"] = [run["seed"] for run in runs if not run["success"]]
    return summary
