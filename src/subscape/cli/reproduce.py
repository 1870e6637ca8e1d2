"""`subscape reproduce`: the published toys over many seeds, with their oracle beside every number."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from subscape._io import check_free, json_object, write_json
from subscape.cli import reproduce_basis
from subscape.reproduction import Recipe, Reproduction, reproduce, reproduction


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
            "modular-addition",
            "digits-mlp",
        ],
        tyro.conf.Positional,
    ]
    """Which toy; modular-addition and digits-mlp are those of the Local Interaction Basis, where of the
    other flags only --out, --seeds, --first-seed (digits-mlp), --data, --overwrite and --json count."""
    seeds: int = 10
    """How many seeds."""
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
    rank: int | None = None
    """Another rank of the matrices."""
    active_fraction: float | None = None
    """Another k."""
    steps: int | None = None
    """Another number of steps."""
    batch_size: int | None = None
    """Another batch size."""
    n_samples: int | None = None
    """Another number of inputs to train on."""
    dense_warmup: float | None = None
    """Another share of steps in which all coefficients are active."""
    resample_every: int | None = None
    """Another number of steps between resamplings; 0 for none, as published."""
    side_by_side: int = 20
    """Seeds that share one vectorised run."""
    data: Path | None = None
    """modular-addition: folder with the checkpoints; by default $SUBSCAPE_DATA/rib_modadd."""
    overwrite: bool = False
    """Replace the results.json of an earlier reproduction."""
    json: bool = False
    """Print the summary as JSON."""


TRAINING_FLAGS = (
    "n_restarts",
    "n_subnetworks",
    "rank",
    "active_fraction",
    "steps",
    "batch_size",
    "dense_warmup",
    "resample_every",
)


def run(settings: ReproduceRun) -> dict[str, Any]:
    """Carry out the command.

    Args:
        settings: what the command line said.

    Returns:
        The results, which are also in DIR/results.json.

    Raises:
        FileExistsError: if there is a results.json already.
    """
    path = settings.out / "results.json"
    check_free(path, overwrite=settings.overwrite, owned=_is_results, name="out")
    if settings.name in ("modular-addition", "digits-mlp"):
        return reproduce_basis.run(
            settings.name,
            range(settings.first_seed, settings.first_seed + settings.seeds),
            settings.out,
            data=settings.data,
            as_json=settings.json,
        )
    what = _with_flags(reproduction(settings.name, settings.recipe), settings)
    seeds = range(settings.first_seed, settings.first_seed + settings.seeds)
    torch.set_num_threads(1)  # more threads only wait for each other on tensors this small
    results = reproduce(what, seeds, side_by_side=settings.side_by_side, progress=not settings.json)
    settings.out.mkdir(parents=True, exist_ok=True)
    write_json(path, results)
    if settings.json:
        print(json.dumps(results["summary"]))
    else:
        _print(results, path)
    return results


def _is_results(path: Path) -> bool:
    return json_object(path).keys() >= {"name", "runs", "summary"}


def _with_flags(what: Reproduction, settings: ReproduceRun) -> Reproduction:
    given = {k: v for k in TRAINING_FLAGS if (v := getattr(settings, k)) is not None}
    return replace(
        what,
        training=replace(what.training, **given),
        divergence=settings.divergence or what.divergence,
        n_samples=settings.n_samples or what.n_samples,
    )


def _print(results: dict[str, Any], path: Path) -> None:
    s = results["summary"]
    seeds = s["seeds"]
    print(f"\n{results['name']}, {seeds} seeds, {results['settings']['divergence']}")
    print(f"  FVU on rows not trained on   {s['fvu']['mean']:.3f} ± {s['fvu']['std']:.3f}")
    print(
        f"    mean of batches, as published {s['fvu_of_batches']['mean']:.3f}"
        f" ± {s['fvu_of_batches']['std']:.3f}"
    )
    print(
        f"  oracle FVU at the same L0    {s['fvu_oracle']['mean']:.3f}   gap {s['oracle_gap']:+.3f}"
    )
    print(f"  L0                           {s['l0']['mean']:.2f}")
    print(f"  success                      {s['success']} of {seeds}")
    print(f"  true subnetworks matched     {s['matched']} of {s['truths']}")
    print(f"  MMCS                         {s['mmcs']['mean']:.4f} (min {s['mmcs']['min']:.3f})")
    print(f"  dead subnetworks             {s['dead']['mean']:.1%}")
    print(f"  targets with every feature   {s['target_complete']} of {seeds}")
    for key in ("pearson_published", "r2_target", "r2_read_out", "purity"):
        if key in s:
            print(f"  {key:<28} {s[key]['mean']:.4f} (min {s[key]['min']:.4f})")
    if s["failed_seeds"]:
        print(f"  failed seeds                 {s['failed_seeds']}")
    print(f"\nWritten to {path}")
