"""`subscape reproduce`: the papers' toys over many seeds, with their oracle or PCA beside every number."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from subscape._checks import require
from subscape._io import check_free, json_object, writable, write_json
from subscape.cli.basis import BasisFile, keep_settings, load_task
from subscape.cli.flags import parsed as parsed_flags
from subscape.cli.reproduce_all import run_all
from subscape.gradients.geometry import RowWeight
from subscape.gradients.source import MetricName
from subscape.reproduce.basis import CONFIG, PICTURE, TOLERANCES, reproduce_basis
from subscape.reproduce.recipes import OF_TOYS, Recipe, Reproduction, reproduction
from subscape.reproduce.toys import GEOMETRY, reproduce
from subscape.training.config import Start


@dataclass(frozen=True)
class ReproduceRun:
    """Train a toy target per seed, decompose it, and compare the subnetworks with the true ones.

    Writes DIR/results.json. A seed draws the target, its data and the decomposition.
    """

    name: Annotated[
        Literal[
            "tms",
            "tms-parallel",
            "tms-40-10",
            "tms-identity",
            "tmcs",
            "high-rank",
            "squared",
            "squared-paper",
            "squared-published",
            "superposed",
            "modular-addition",
            "digits-mlp",
            "all",
        ],
        tyro.conf.Positional,
    ]
    """Which toy; modular-addition and digits-mlp are those of the Local Interaction Basis, where of the
    other flags only --out, --seeds, --first-seed (digits-mlp), --data, --overwrite and --json count. all: every
    table of docs/reproductions.md; what lies in --out already is not run again. Then only --out, --jobs, --write
    count, and --seeds and --steps for a smaller version."""
    seeds: int | None = None
    """How many seeds; by default 10."""
    first_seed: int = 0
    """The first of them."""
    out: Path = Path("runs/reproduce")
    """Folder for results.json."""
    recipe: Recipe = "default"
    """default: ours; published: the paper's 1,000 samples, batches of 32, 32,000 steps, step schedule."""
    divergence: Literal["mse", "half-reference-mse"] | None = None
    """Another divergence than the toy's own default (mse; half-reference-mse for squared)."""
    n_restarts: int | None = None
    """Starts per seed, trained side by side; the one of lowest held-out FVU is kept."""
    n_subnetworks: int | None = None
    """Another number of subnetworks."""
    group_size: int | None = None
    """Directions of a subnetwork, which are active together."""
    rank: int | None = None
    """Another rank of the matrices."""
    active_fraction: float | None = None
    """Another k, as a share of all subnetworks, also of those that are left."""
    l0: float | None = None
    """Another number of active subnetworks per row, however many there are."""
    consolidate: bool = False
    """Merge duplicate subnetworks and drop useless ones, after 60 % of the steps."""
    steps: int | None = None
    """Another number of steps."""
    batch_size: int | None = None
    """Another batch size."""
    n_samples: int | None = None
    """Another number of inputs to train on."""
    start: Start | None = None
    """Where subnetworks start: at random directions, the default here, or at clusters of training rows."""
    dense_warmup: float | None = None
    """Another share of steps in which all coefficients are active."""
    resample_every: int | None = None
    """Another number of steps between resamplings; 0 for none, as published."""
    n_features: int | None = None
    """Another number of features, with as many subnetworks for each."""
    n_hidden: int | None = None
    """Another width of the bottleneck."""
    n_outputs: int | None = None
    """tmcs: another number of outputs than of features."""
    n_neurons: int | None = None
    """superposed: neurons of a circuit; n_hidden is so many times a prime."""
    probability: float | None = None
    """Another probability that a feature is active."""
    signed: bool = False
    """tms: inputs of both signs, of which the outputs are to be the positive parts."""
    correlation: float | None = None
    """tms: share of its rows in which the second feature is active where the first is."""
    large_input: float | None = None
    """tms: the first input this many times as large, and its weights as many times smaller."""
    reference: Literal["another-row", "mean"] = "another-row"
    """Reference that a row's output is compared with."""
    row_weight: RowWeight = "norm"
    """How much a row counts: norm, output, unit, or a power of the norm between 0 and 1."""
    metric: MetricName = "euclidean"
    """What gradients are measured in: euclidean or kronecker; success is judged in it."""
    metric_power: float = 0.5
    """kronecker: p of F^(−p); ½ whitens fully."""
    metric_damping: float = 0.01
    """kronecker: damping, as a share of the mean eigenvalue."""
    side_by_side: int = 20
    """Seeds that share one vectorised run."""
    explain: bool = False
    """Train the seeds that fail once more from their true directions, and say whether the search or the loss is
    to blame."""
    jobs: int = 2
    """all: processes at once, of one thread each."""
    write: Path | None = None
    """all: the page to put the tables into, between marks such as <!-- toys --> and <!-- end of toys -->."""
    data: Path | None = None
    """modular-addition: folder with the checkpoints; by default $SUBSCAPE_DATA/rib_modadd."""
    overwrite: bool = False
    """Replace the results.json of an earlier reproduction."""
    json: bool = False
    """Print the summary as JSON."""


SEEDS, MOST_SEEDS = 10, 10_000
TRAINING_FLAGS = (
    "n_restarts",
    "n_subnetworks",
    "group_size",
    "rank",
    "active_fraction",
    "l0",
    "steps",
    "batch_size",
    "start",
    "dense_warmup",
    "resample_every",
)


def run(settings: ReproduceRun) -> dict[str, Any]:
    """Carry out the command."""
    if settings.name == "all":
        return run_all(settings.out, settings.jobs, settings.write, small_of(settings), of_command)
    n_seeds = SEEDS if settings.seeds is None else settings.seeds
    out, path = settings.out, settings.out / "results.json"
    pictures = [out / PICTURE] if settings.name in TOLERANCES else []
    if not path.exists() and list(out.glob("seed*/basis.toml")):
        pictures = []  # of a reproduction that was stopped before its results were written
    for each in (path, *pictures):
        # The picture is known by the results that it is of.
        check_free(
            each, overwrite=settings.overwrite, owned=lambda _: _is_results(path), name="out"
        )
    for name, n in {"seeds": n_seeds, "side_by_side": settings.side_by_side}.items():
        require(1 <= n <= MOST_SEEDS, name, f"a whole number from 1 to {MOST_SEEDS}", n)
    require(settings.first_seed >= 0, "first_seed", "at least 0", settings.first_seed)
    torch.set_num_threads(1)  # more threads only wait for each other on tensors this small
    seeds = range(settings.first_seed, settings.first_seed + n_seeds)
    progress = not settings.json
    if settings.name in TOLERANCES:
        configs = _basis_files(settings, seeds)
        for seed, config in configs.items():
            # So that `subscape basis` takes the seed's folder as a run of its own.
            keep_settings(config, out / f"seed{seed}")
        tasks = ((seed, load_task(config)) for seed, config in configs.items())
        results, lines = reproduce_basis(settings.name, tasks, out, progress=progress), _basis_lines
    else:
        what = _with_flags(reproduction(settings.name, settings.recipe), settings)
        with writable(path):
            out.mkdir(parents=True, exist_ok=True)
        results = reproduce(what, seeds, **_how(settings), progress=progress)
        lines = _toy_lines
    write_json(path, results)
    if settings.json:
        print(json.dumps(results["summary"]))
    else:
        beside = "Published figures, and what 20 seeds gave: docs/reproductions.md"
        print("\n".join([*lines(results), f"Written to {path}", "", beside]))
    return results


def small_of(settings: ReproduceRun) -> dict[str, int]:
    """What a smaller version of all tables has less of."""
    given = {"seeds": settings.seeds, "steps": settings.steps}
    return {name: n for name, n in given.items() if n is not None}


def of_command(command: str, small: Mapping[str, int]) -> dict[str, Any]:
    """The results of one line of the tables, in a process of its own."""
    torch.set_num_threads(1)
    settings = parsed_flags(ReproduceRun, "reproduce", command.split())
    settings = replace(settings, **small)
    first, n = settings.first_seed, settings.seeds or SEEDS
    what = _with_flags(reproduction(settings.name, settings.recipe), settings)
    seeds = range(first, first + n)
    return reproduce(what, seeds, **_how(settings), progress=False)


def _how(settings: ReproduceRun) -> dict[str, Any]:
    return {"side_by_side": settings.side_by_side, "explain": settings.explain}


def _is_results(path: Path) -> bool:
    return json_object(path).keys() >= {"name", "runs", "summary"}


def _with_flags(what: Reproduction, settings: ReproduceRun) -> Reproduction:
    of_toy = {k: v for k in sorted(OF_TOYS) if (v := getattr(settings, k)) not in (None, False)}
    what = what.of_toy(of_toy)
    given = {k: v for k in TRAINING_FLAGS if (v := getattr(settings, k)) is not None}
    n = what.n_samples if settings.n_samples is None else settings.n_samples
    training = replace(what.training, **given)
    least = training.batch_size
    require(n >= least, "n_samples", f"at least the {least} inputs of a batch", n)
    return replace(
        what,
        training=replace(training, consolidate=settings.consolidate),
        divergence=settings.divergence or what.divergence,
        n_samples=n,
        **{name: getattr(settings, name) for name in GEOMETRY},
    )


def _basis_files(settings: ReproduceRun, seeds: range) -> dict[int, BasisFile]:
    config = BasisFile(tolerance=TOLERANCES[settings.name], basis=CONFIG)
    if settings.name == "digits-mlp":
        return {seed: replace(config, seed=seed) for seed in seeds}
    folder, data = settings.data, os.environ.get("SUBSCAPE_DATA")
    if folder is None:
        require(
            bool(data),
            "data",
            "the folder with the checkpoints",
            "neither --data nor the environment variable SUBSCAPE_DATA",
            "Give one of them.",
        )
        folder = Path(data or "") / "rib_modadd"
    checkpoints = {
        int(path.stem.removeprefix("seed")): str(path.resolve())
        for path in sorted(folder.glob("seed*.safetensors"))
    }
    require(
        bool(checkpoints),
        "data",
        "a folder with seed0.safetensors and its like",
        str(folder),
        "Set --data, or SUBSCAPE_DATA to the folder that holds rib_modadd.",
    )
    return {
        seed: replace(config, task="modular-addition", weights=path)
        for seed, path in checkpoints.items()
    }


def _toy_lines(results: Mapping[str, Any]) -> list[str]:
    s = results["summary"]
    n = s["seeds"]

    def spread(key: str) -> str:
        return f"{s[key]['mean']:.3f} ± {s[key]['std']:.3f}"

    rows = {
        "FVU on rows not trained on": spread("fvu"),
        "  mean of batches, as published": spread("fvu_of_batches"),
        "oracle FVU at the same L0": f"{s['fvu_oracle']['mean']:.3f}   gap {s['oracle_gap']:+.3f}",
        "L0": f"{s['l0']['mean']:.2f}, active scalars {s['active_scalars']['mean']:.2f}",
        "subnetworks": ", ".join(f"{n} in {k} seeds" for n, k in sorted(s["subnetworks"].items())),
        "success": f"{s['success']} of {n}",
        "true subnetworks matched": f"{s['matched']} of {s['truths']}",
        "MMCS": f"{s['mmcs']['mean']:.4f} (min {s['mmcs']['min']:.3f})",
        "dead subnetworks": f"{s['dead']['mean']:.1%}",
        "targets with every feature": f"{s['target_complete']} of {n}",
    }
    for key in ("pearson_published", "r2_target", "r2_read_out", "purity"):
        if key in s:
            rows[key] = f"{s[key]['mean']:.4f} (min {s[key]['min']:.4f})"
    if "all_paths" in s:
        rows["one path for each, and all paths"] = f"{s['all_paths']} of {n}"
        rows["oracle FVU, one direction each"] = f"{s['fvu_oracle_by_input']['mean']:.3f}"
    if "all_in_spans" in s:
        rows["all circuits in a group's span"] = f"{s['all_in_spans']} of {n}"
    if "pushes_matched" in s:
        rows["all directions to push matched"] = f"{s['pushes_matched']} of {n}"
    if "circuits_mmcs" in s:
        rows["MMCS with the weights of circuits"] = f"{s['circuits_mmcs']['mean']:.4f}"
    if s["failed_seeds"]:
        rows["failed seeds"] = str(s["failed_seeds"])
    return [
        f"\n{results['name']}, {n} seeds, {results['settings']['divergence']}",
        *(f"  {label:<31} {text}" for label, text in rows.items()),
        *(f"  {f'  seed {seed}':<31} {why}" for seed, why in s["verdicts"].items()),
        "",
    ]


def _basis_lines(results: Mapping[str, Any]) -> list[str]:
    lines = []
    for run in results["runs"]:
        bases, edges = run["seconds"]["bases"], run["seconds"]["edges"]
        lines.append(
            f"\nseed {run['seed']}: accuracy {run['base']:.5f}, "
            f"bases {bases:.1f} s, edges of both {edges:.1f} s"
        )
        for method in ("lib", "pca"):
            required, modules = run["edges_required"][method], run["modules"][method]
            published = run.get("published", {}).get(method)
            beside = f" (published {published})" if published else ""
            lines += [
                f"  {method.upper()}  edges required {required}{beside}",
                f"       modules {modules['sizes']}, Q = {modules['modularity']:.3f}",
            ]
        if "frequencies" in run:
            lines.append(
                f"  frequencies of the LIB modules, with their share: {run['frequencies']}"
            )
    total, ratio = results["summary"]["total"], results["summary"]["ratio"]
    return [
        *lines,
        f"\nedges required in all: LIB {total['lib']}, PCA {total['pca']}, ratio {ratio:.3f}",
    ]
