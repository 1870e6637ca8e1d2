"""`subscape reproduce modular-addition` and `digits-mlp`: the Local Interaction Basis beside PCA."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from subscape._checks import problem
from subscape.cli.basis import BasisFile, keep_settings
from subscape.interaction_basis.reproduction import (
    CONFIG,
    reproduce_digits,
    reproduce_modular_addition,
)


def run(name: str, seeds: range, out: Path, *, data: Path | None, as_json: bool) -> dict[str, Any]:
    """Carry out the command.

    Args:
        name: modular-addition or digits-mlp.
        seeds: of digits-mlp; modular-addition takes those of the checkpoints.
        out: folder for results.json, figures and a run folder per seed.
        data: folder with the checkpoints of modular-addition.
        as_json: whether to print the summary as JSON, and no progress.

    Returns:
        The results, which are also in DIR/results.json.
    """
    torch.set_num_threads(1)  # matrices this small only make threads wait for each other
    if name == "modular-addition":
        models = _models(data)
        results = reproduce_modular_addition(models, out, progress=not as_json)
    else:
        models = None
        results = reproduce_digits(seeds, out, progress=not as_json)
    for found in results["runs"]:
        _keep_settings(found, out, models)
    if as_json:
        print(json.dumps(results["summary"]))
    else:
        _print(results, out)
    return results


def _models(data: Path | None) -> Path:
    if data is not None:
        return data
    named = os.environ.get("SUBSCAPE_DATA")
    if not named:
        raise ValueError(
            problem(
                "data",
                "the folder with the checkpoints",
                "neither --data nor the environment variable SUBSCAPE_DATA",
                "Give one of them.",
            )
        )
    return Path(named) / "rib_modadd"


def _keep_settings(found: dict[str, Any], out: Path, models: Path | None) -> None:
    """So that `subscape basis` takes the seed's folder as a run of its own."""
    seed = found["seed"]
    config = BasisFile(tolerance=found["tolerance"], basis=CONFIG)
    if models is None:
        config = replace(config, seed=seed)
    else:
        weights = (models / f"seed{seed}.safetensors").resolve()
        config = replace(config, task="modular-addition", weights=str(weights))
    keep_settings(config, out / f"seed{seed}")


def _print(results: dict[str, Any], folder: Path) -> None:
    for run in results["runs"]:
        seconds = run["seconds"]
        print(f"\nseed {run['seed']}: accuracy {run['base']:.5f}, ", end="")
        print(f"bases {seconds['bases']:.1f} s, edges of both {seconds['edges']:.1f} s")
        for method in ("lib", "pca"):
            found, modules = run["edges_required"][method], run["modules"][method]
            published = run.get("published", {}).get(method)
            beside = f" (published {published})" if published else ""
            print(f"  {method.upper()}  edges required {found}{beside}")
            print(f"       modules {modules['sizes']}, Q = {modules['modularity']:.3f}")
        if "frequencies" in run:
            print(f"  frequencies of the LIB modules, with their share: {run['frequencies']}")
    total = results["summary"]["total"]
    print(f"\nedges required in all: LIB {total['lib']}, PCA {total['pca']}, ", end="")
    print(f"ratio {results['summary']['ratio']:.3f}\nWritten to {folder}")
