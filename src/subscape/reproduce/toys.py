"""The toys over many seeds: train targets, decompose, compare with the truth.

A seed draws the target, its data and the decomposition. All seeds run side by side in vectorised runs; a
seed's draws do not depend on the others. Features that a target does not represent have no circuit and
are left out of the count (`target_complete` in the summary is the number of seeds without such a feature;
toys are trained several times and the best is kept, see `subscape.toys`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, astuple, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from subscape._progress import bar
from subscape._shapes import Bool
from subscape.gradients import GradientSource
from subscape.lowrank import make_layout
from subscape.measures.oracle import oracle
from subscape.measures.recovery import MATCHED, Recovery, recovery
from subscape.reproduce.mixing import mixing_recovery
from subscape.reproduce.purity import purity
from subscape.reproduce.recipes import Reproduction
from subscape.rows import generator_of
from subscape.subnetworks.decomposition import Decomposition
from subscape.subnetworks.evaluation import DEAD_RATE
from subscape.targets import Target
from subscape.toys import TOYS, Toy, ToyTraining, Truth, true_subnetworks
from subscape.training import train_side_by_side

N_HELDOUT = 2_000
METRICS = ("fvu", "fvu_of_batches", "fvu_of_restarts", "l0", "dead", "active_rate")
VERDICTS = ("mmcs", "min_cosine", "second_cosine", "precision", "all_matched", "success")


def reproduce(
    what: Reproduction, seeds: Sequence[int], *, side_by_side: int = 20, progress: bool = True
) -> dict[str, Any]:
    """Run a reproduction over seeds, `side_by_side` of them in a vectorised run.

    Gives `{"name", "settings", "runs": [one per seed], "summary"}`, ready for JSON.
    """
    # What does not fit the toy is found before it is trained.
    toy = TOYS[what.toy](seeds[:1], training=ToyTraining(1, n_candidates=1))[0]
    make_layout(Target(toy.model).shapes, what.training.rank, what.training.form)
    runs: list[dict[str, Any]] = []
    groups = [list(seeds[i : i + side_by_side]) for i in range(0, len(seeds), side_by_side)]
    for group in bar(what.name, groups, progress=progress and len(groups) > 1):
        runs += _run_group(what, group, progress and len(groups) == 1)
    return {"name": what.name, "settings": asdict(what), "runs": runs, "summary": summarise(runs)}


def _run_group(what: Reproduction, seeds: list[int], progress: bool) -> list[dict[str, Any]]:
    toys = TOYS[what.toy](seeds)

    def sources(part: int, n: int) -> list[GradientSource]:
        return [
            GradientSource(
                Target(toy.model),
                toy.sample(n, generator_of(seed, 7, part)),
                divergence=what.divergence,
                seed=2 * seed + part,
            )
            for toy, seed in zip(toys, seeds, strict=True)
        ]

    train, heldout = sources(0, what.n_samples), sources(1, N_HELDOUT)
    config = replace(what.training, n_heldout_rows=N_HELDOUT)
    started = time.perf_counter()
    decompositions = train_side_by_side(train, heldout, config, progress=progress)
    seconds = (time.perf_counter() - started) / len(seeds)
    return [
        {"seed": seed, **_figures(what, toy, decomposition, held), "seconds": seconds}
        for seed, toy, decomposition, held in zip(seeds, toys, decompositions, heldout, strict=True)
    ]


class Comparison(NamedTuple):
    """A decomposition beside the truth of its toy."""

    truth: Truth
    alive: Bool[Tensor, " subnetwork"]
    """Active often enough to count."""
    recovery: Recovery


def compared_with_truth(toy: Toy, decomposition: Decomposition, divergence: str) -> Comparison:
    """Which subnetworks of a decomposition stand for which true ones."""
    truth = true_directions(toy, divergence)
    alive = torch.tensor(decomposition.metrics["active_rate"]) > DEAD_RATE
    represented = toy.represented.repeat(len(truth.directions) // toy.n_groups)
    directions = decomposition.decoder.flat()
    found = recovery(directions, truth.directions, alive=alive, represented=represented)
    return Comparison(truth, alive, found)


def true_directions(toy: Toy, divergence: str) -> Truth:
    """The toy's true subnetworks; inputs of two signs have a circuit for each.

    A network that squares passes positive and negative inputs through different units: their gradients
    are nearly orthogonal (|cos| about 0.2), so one direction cannot stand for both. The positive inputs' come
    first, then the others'.
    """
    if toy.inputs.low >= 0:
        return true_subnetworks(toy, divergence)
    halves = [
        true_subnetworks(replace(toy, inputs=replace(toy.inputs, low=low, high=high)), divergence)
        for low, high in ((0.0, toy.inputs.high), (toy.inputs.low, 0.0))
    ]
    return Truth(*(torch.cat(both) for both in zip(*map(astuple, halves), strict=True)))


def _figures(
    what: Reproduction, toy: Toy, decomposition: Decomposition, heldout: GradientSource
) -> dict[str, Any]:
    metrics, training = decomposition.metrics, what.training
    truth, alive, compared = compared_with_truth(toy, decomposition, what.divergence)
    batch = heldout.rows(0, len(heldout))
    gradients = heldout.gradients(batch)
    figures = {
        "divergence": what.divergence,
        "n_restarts": training.n_restarts,
        "steps": training.steps,
        **{name: metrics[name] for name in METRICS},
        "fvu_oracle": oracle(gradients.flat, truth.directions, metrics["l0"]).fvu,
        **{name: getattr(compared, name) for name in VERDICTS},
        "matched": compared.n_matched,
        "truths": compared.n_truths,
        "energy": truth.energy.mean().item(),
        "target_loss": toy.final_loss,
        "target_complete": toy.all_represented,
    }
    if what.toy == "tmcs":
        figures |= _mixing_figures(toy, decomposition, alive)
    if toy.inputs.low < 0:
        by_sign = (compared.cosine >= MATCHED).unflatten(0, (2, toy.n_groups))
        figures |= {"paths": int(by_sign.any(0).sum()), "all_paths": bool(by_sign.any(0).all())}
    if what.toy == "high-rank":
        codes = decomposition.dictionary.reconstruct(gradients).codes
        inputs = heldout.data
        assert isinstance(inputs, Tensor)
        groups = toy.inputs.active_groups(inputs[batch.samples])
        pure = purity(codes, groups, alive=alive)
        figures |= {"purity": pure.mean, "groups_fired_for": pure.n_groups}
    return figures


def _mixing_figures(toy: Toy, decomposition: Decomposition, alive: Tensor) -> dict[str, Any]:
    parts, own = decomposition.decoder.dense(), dict(toy.model.named_parameters())
    assert toy.mixing is not None
    read = mixing_recovery(
        parts["W_in"], parts["W_out"], own["W_in"], own["W_out"], toy.mixing, alive=alive
    )
    return {
        "pearson_published": read.published.pearson,
        "pearson_change": read.change.pearson,
        "r2_target": read.change.r_squared,
        "r2_read_out": read.read_out.r_squared,
        "mixing_features": read.n_features,
    }


def summarise(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Figures over seeds: numbers as mean, spread, minimum and maximum, verdicts as counts."""
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
