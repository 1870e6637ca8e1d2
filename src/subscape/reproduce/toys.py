"""The toys over many seeds: train targets, decompose, compare with the truth.

A seed draws the target, its data and the decomposition. All seeds run side by side in vectorised runs; a
seed's draws do not depend on the others. Features that a target does not represent have no circuit and
are left out of the count (`target_complete` in the summary is the number of seeds without such a feature;
toys are trained several times and the best is kept, see `subscape.toys`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, astuple, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from subscape._progress import bar
from subscape._shapes import Bool
from subscape.gradients import DenseRowGradients, GradientSource
from subscape.gradients.geometry import Geometry
from subscape.lowrank import make_layout
from subscape.measures.oracle import oracle
from subscape.measures.recovery import (
    MATCHED,
    Recovery,
    absolute_cosines,
    recovery,
    recovery_by,
    span_cosines,
)
from subscape.references import FixedOutput
from subscape.reproduce.mixing import mixing_recovery
from subscape.reproduce.paths import paths
from subscape.reproduce.purity import purity
from subscape.reproduce.recipes import Reproduction
from subscape.reproduce.verdict import from_truth, verdict
from subscape.rows import generator_of
from subscape.subnetworks.decomposition import Decomposition
from subscape.subnetworks.evaluation import DEAD_RATE
from subscape.targets import Target
from subscape.toys import TOYS, Toy, ToyTraining, Truth, true_subnetworks
from subscape.training import train_side_by_side

N_HELDOUT = 2_000
METRICS = (
    "fvu",
    "fvu_of_batches",
    "fvu_of_restarts",
    "l0",
    "active_scalars",
    "dead",
    "active_rate",
)
GEOMETRY = ("reference", "row_weight", "metric", "metric_power", "metric_damping")
VERDICTS = ("mmcs", "min_cosine", "second_cosine", "precision", "all_matched", "success")


def reproduce(
    what: Reproduction,
    seeds: Sequence[int],
    *,
    side_by_side: int = 20,
    explain: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Run a reproduction over seeds, `side_by_side` of them in a vectorised run.

    Gives `{"name", "settings", "runs": [one per seed], "summary"}`, ready for JSON. With `explain` seeds that fail
    are trained once more from their truth; see `verdict`.
    """
    # What does not fit the toy is found before it is trained.
    settings = dict(what.toy_settings) | {"training": ToyTraining(1, n_candidates=1)}
    toy = TOYS[what.toy](seeds[:1], **settings)[0]
    training = what.training.of_rows("sample")
    assert training.rank is not None
    make_layout(Target(toy.model).shapes, training.rank, training.form)
    runs: list[dict[str, Any]] = []
    groups = [list(seeds[i : i + side_by_side]) for i in range(0, len(seeds), side_by_side)]
    for group in bar(what.name, groups, progress=progress and len(groups) > 1):
        runs += _run_group(what, group, explain, progress and len(groups) == 1)
    return {"name": what.name, "settings": asdict(what), "runs": runs, "summary": summarise(runs)}


def _run_group(
    what: Reproduction, seeds: list[int], explain: bool, progress: bool
) -> list[dict[str, Any]]:
    toys = TOYS[what.toy](seeds, **what.toy_settings)
    of_geometry: Any = {name: getattr(what, name) for name in GEOMETRY}
    train = [
        GradientSource(
            Target(toy.model),
            toy.sample(what.n_samples, generator_of(seed, 7, 0)),
            divergence=what.divergence,
            seed=2 * seed,
            **of_geometry,
        )
        for toy, seed in zip(toys, seeds, strict=True)
    ]
    heldout = [
        source.over(toy.sample(N_HELDOUT, generator_of(seed, 7, 1)), seed=2 * seed + 1)
        for source, toy, seed in zip(train, toys, seeds, strict=True)
    ]
    config = replace(what.training, n_heldout_rows=N_HELDOUT)
    started = time.perf_counter()
    decompositions = train_side_by_side(train, heldout, config, progress=progress)
    seconds = (time.perf_counter() - started) / len(seeds)
    runs = [
        {"seed": seed, **_figures(what, toy, decomposition, held), "seconds": seconds}
        for seed, toy, decomposition, held in zip(seeds, toys, decompositions, heldout, strict=True)
    ]
    if explain:
        every = zip(toys, train, heldout, decompositions, runs, strict=True)
        _explain(what, [one for one in every if not one[-1]["success"]])
    return runs


def _explain(
    what: Reproduction,
    failing: Sequence[tuple[Toy, GradientSource, GradientSource, Decomposition, dict[str, Any]]],
) -> None:
    """Add to the figures of seeds that fail what becomes of the truth when training begins at it."""
    if not failing:
        return
    truths = [
        true_directions(toy, what.divergence, other.geometry, other.reference).directions
        for toy, _, _, other, _ in failing
    ]
    config = replace(what.training, n_subnetworks=len(truths[0]), n_heldout_rows=N_HELDOUT)
    near = from_truth([one[1] for one in failing], [one[2] for one in failing], config, truths)
    for (toy, *_, run), start in zip(failing, near, strict=True):
        compared = compared_with_truth(toy, start, what.divergence).recovery
        fvu, kept = start.metrics["fvu"], compared.success
        run |= {
            "fvu_from_truth": fvu,
            "min_cosine_from_truth": compared.min_cosine,
            "kept_from_truth": kept,
            "verdict": verdict(run["fvu"], fvu, kept=kept),
        }


class Comparison(NamedTuple):
    """A decomposition beside the truth of its toy; of groups, each group's span beside it."""

    truth: Truth
    alive: Bool[Tensor, " direction"]
    """Active often enough to count."""
    recovery: Recovery


def compared_with_truth(toy: Toy, decomposition: Decomposition, divergence: str) -> Comparison:
    """Which subnetworks of a decomposition stand for which true ones, in the metric it was made in."""
    truth = true_directions(toy, divergence, decomposition.geometry, decomposition.reference)
    alive = torch.tensor(decomposition.metrics["active_rate"]) > DEAD_RATE
    represented, directions = toy.represented, decomposition.decoder.flat()
    if decomposition.group_size == 1:
        cosines = absolute_cosines(truth.directions, directions)
        represented = represented.repeat(len(cosines) // toy.n_groups)
        return Comparison(truth, alive, recovery_by(cosines, alive=alive, represented=represented))
    # Of two signs a group is to have both, and every input a group of its own.
    spans = _spans(truth, decomposition).unflatten(0, (-1, toy.n_groups)).amin(0)
    of_groups = alive.unflatten(0, (-1, decomposition.group_size)).any(1)
    return Comparison(truth, alive, recovery_by(spans, alive=of_groups, represented=represented))


def true_directions(
    toy: Toy,
    divergence: str,
    geometry: Geometry | None = None,
    reference: FixedOutput | None = None,
) -> Truth:
    """The toy's true subnetworks; of inputs of two signs one for each.

    A network that squares passes positive and negative inputs through different units: their gradients
    are nearly orthogonal (|cos| about 0.2), so one direction cannot stand for both. The positive inputs' come
    first, then the others'.
    """
    if not toy.has_two_signs:
        return true_subnetworks(toy, divergence, geometry=geometry, reference=reference)
    signs = [(0.0, toy.inputs.high), (toy.inputs.low, 0.0)]
    halves = [
        true_subnetworks(
            replace(toy, inputs=replace(toy.inputs, low=low, high=high)),
            divergence,
            geometry=geometry,
            reference=reference,
        )
        for low, high in signs
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
        "fvu_oracle": oracle(gradients.flat, truth.directions, metrics["active_scalars"]).fvu,
        **{name: getattr(compared, name) for name in VERDICTS},
        "subnetworks": len(decomposition),
        "matched": compared.n_matched,
        "truths": compared.n_truths,
        "energy": truth.energy.mean().item(),
        "target_loss": toy.final_loss,
        "target_complete": toy.all_represented,
    }
    if what.toy == "tmcs":
        figures |= _mixing_figures(toy, decomposition, alive)
    if toy.circuits is not None and decomposition.geometry.metric is None:
        directions = decomposition.decoder.flat()
        figures |= {"circuits_mmcs": recovery(directions, toy.circuits, alive=alive).mmcs}
    if decomposition.geometry.metric is not None:
        figures |= _push_figures(decomposition, truth, alive, toy.represented)
    if toy.has_two_signs:
        figures |= _path_figures(decomposition, alive)
        by_input = true_subnetworks(
            toy,
            what.divergence,
            geometry=decomposition.geometry,
            reference=decomposition.reference,
        )
        one_each = oracle(gradients.flat, by_input.directions, metrics["active_scalars"])
        figures |= {"fvu_oracle_by_input": one_each.fvu}
    if training.group_size > 1:
        figures |= _span_figures(toy, truth, decomposition)
    if what.toy == "high-rank":
        codes = decomposition.dictionary.reconstruct(gradients).codes
        inputs = heldout.data
        assert isinstance(inputs, Tensor)
        groups = toy.inputs.active_groups(inputs[batch.samples])
        pure = purity(codes, groups, alive=alive)
        figures |= {"purity": pure.mean, "groups_fired_for": pure.n_groups}
    return figures


def _spans(truth: Truth, decomposition: Decomposition) -> Tensor:
    groups = decomposition.decoder.flat().unflatten(0, (-1, decomposition.group_size))
    return span_cosines(truth.directions, groups)


def _span_figures(toy: Toy, truth: Truth, decomposition: Decomposition) -> dict[str, Any]:
    """Circuits in the span of some group, be it that of others too."""
    best = _spans(truth, decomposition).amax(1)
    in_spans = best[toy.represented.repeat(len(best) // toy.n_groups)] >= MATCHED
    return {"in_spans": int(in_spans.sum()), "all_in_spans": bool(in_spans.all())}


def _path_figures(decomposition: Decomposition, alive: Tensor) -> dict[str, Any]:
    parts = [
        part for name, part in decomposition.decoder.dense().items() if name.endswith("weight")
    ]
    led = paths(parts[0], parts[-1], alive=alive)
    return {"paths": led.n_found, "all_paths": led.all_found, "path_share": led.share.tolist()}


def _push_figures(
    decomposition: Decomposition, truth: Truth, alive: Tensor, represented: Tensor
) -> dict[str, Any]:
    """The directions to push beside F^(−p) of the true ones, in the parameters' own coordinates."""
    metric = decomposition.geometry.metric
    assert metric is not None
    true = DenseRowGradients(
        truth.directions, {t.name: t.shape for t in decomposition.layout.tensors}
    )
    pushes = true.in_metric(metric.to(truth.directions)).flat
    of_pushes = recovery(
        decomposition.directions.flat(),
        pushes,
        alive=alive,
        represented=represented.repeat(len(pushes) // len(represented)),
    )
    return {"pushes_matched": of_pushes.all_matched, "pushes_mmcs": of_pushes.mmcs}


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
    summary["subnetworks"] = dict(Counter(run["subnetworks"] for run in runs))
    summary["matched"] = sum(run["matched"] for run in runs)
    summary["truths"] = sum(run["truths"] for run in runs)
    if "in_spans" in runs[0]:
        summary["in_spans"] = sum(run["in_spans"] for run in runs)
    summary["oracle_gap"] = summary["fvu"]["mean"] - summary["fvu_oracle"]["mean"]
    summary["failed_seeds"] = [run["seed"] for run in runs if not run["success"]]
    summary["verdicts"] = {run["seed"]: run["verdict"] for run in runs if "verdict" in run}
    return summary
