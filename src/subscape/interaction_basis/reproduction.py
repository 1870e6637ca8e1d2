"""Reproductions: modular addition against the published numbers, and the digits MLP over seeds."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from subscape._checks import require
from subscape._io import read_json, write_json
from subscape.interaction_basis.build import BasisConfig
from subscape.interaction_basis.figures import report_stage
from subscape.interaction_basis.fourier import frequency_shares
from subscape.interaction_basis.pictures import draw_edges_required, panels
from subscape.interaction_basis.stages import (
    METHODS,
    ablate_stage,
    build_stage,
    edges_stage,
    load_graphs,
    modules_stage,
    parse_nodes,
)
from subscape.interaction_basis.task import (
    Task,
    digits_task,
    modular_addition_task,
    pair_tables,
)

PUBLISHED = {
    ("lib", 0): (133, 82, 633),
    ("lib", 1): (80, 75, 699),
    ("lib", 3): (58, 60, 535),
    ("pca", 0): (167, 114, 682),
    ("pca", 1): (76, 53, 734),
    ("pca", 3): (115, 71, 547),
}
"""Edges required within .001 of the accuracy on the test pairs, from the results saved with the models."""
CONFIG = BasisConfig(last="raw")
MOD_ADD_TOLERANCE = 0.001
DIGITS_TOLERANCE = 0.01
"""3 or 4 of the 360 digits that are not trained on."""


def reproduce_modular_addition(
    models: Path, folder: Path, *, progress: bool = False
) -> dict[str, Any]:
    """Run all stages on the published checkpoints.

    Args:
        models: folder with seed0.safetensors and its like.
        folder: where results.json, the figures and a run folder per seed go.
        progress: whether to show progress bars.

    Returns:
        What is in results.json.
    """
    found = sorted(models.glob("seed*.safetensors"))
    require(
        bool(found),
        "data",
        "a folder with seed0.safetensors and its like",
        str(models),
        "Set --data, or SUBSCAPE_DATA to the folder that holds rib_modadd.",
    )
    runs = []
    for path in found:
        seed = int(path.stem.removeprefix("seed"))
        task = modular_addition_task(path)
        run = _run(task, folder / path.stem, MOD_ADD_TOLERANCE, progress)
        run["seed"] = seed
        run["frequencies"] = _frequencies(task, folder / path.stem)
        run["published"] = {m: list(PUBLISHED[m, seed]) for m in METHODS if (m, seed) in PUBLISHED}
        runs.append(run)
    return _results("modular-addition", runs, folder)


def reproduce_digits(
    seeds: Iterable[int], folder: Path, *, progress: bool = False
) -> dict[str, Any]:
    """Train an MLP on the digits per seed and run all stages.

    Args:
        seeds: of weights and split.
        folder: where results.json, the figures and a run folder per seed go.
        progress: whether to show progress bars.

    Returns:
        What is in results.json.
    """
    runs = []
    for seed in seeds:
        run = _run(digits_task(seed), folder / f"seed{seed}", DIGITS_TOLERANCE, progress)
        runs.append({**run, "seed": seed})
    return _results("digits-mlp", runs, folder)


def _run(task: Task, folder: Path, tolerance: float, progress: bool) -> dict[str, Any]:
    start = time.perf_counter()
    bases = build_stage(task, CONFIG, folder, progress=progress)
    built = time.perf_counter()
    graphs = edges_stage(task, CONFIG, folder, progress=progress)
    linked = time.perf_counter()
    ablation = ablate_stage(task, folder, tolerance, progress=progress)
    modules = modules_stage(folder)
    report_stage(folder, title=folder.name)
    return {
        "base": ablation["base"],
        "tolerance": tolerance,
        "names": ablation["names"],
        "ranks": {m: [b.rank for b in bases.of(m)] for m in METHODS},
        "importance": [b.importance[:12].tolist() for b in bases.lib[:-1]],
        "edge_sums": {m: [float(e.sum()) for e in graphs[m].edges] for m in METHODS},
        "edges_required": {m: [s["n_edges"] for s in ablation[m]["sections"]] for m in METHODS},
        "total": ablation["total"],
        "ratio": ablation["ratio"],
        "modules": {m: {k: modules[m][k] for k in ("sizes", "modularity")} for m in METHODS},
        "seconds": {"bases": built - start, "edges": linked - built},
    }


def _frequencies(task: Task, folder: Path) -> list[dict[str, float]]:
    """For every LIB module the four leading frequencies, by their share averaged over its directions."""
    tables = pair_tables(task.chain, load_graphs(folder)["lib"])
    found = []
    for module in read_json(folder / "modules.json")["lib"]["modules"]:
        total: Counter[int] = Counter()
        for node in parse_nodes(module["members"]):
            if node in tables:
                total.update(frequency_shares(tables[node]))
        n = len(module["members"])
        found.append({str(k): round(share / n, 3) for k, share in total.most_common(4)})
    return found


def _results(name: str, runs: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    n = len(runs)
    mean = {
        m: [sum(column) / n for column in zip(*(r["edges_required"][m] for r in runs), strict=True)]
        for m in METHODS
    }
    totals = {m: sum(r["total"][m] for r in runs) for m in METHODS}
    results = {
        "name": name,
        "summary": {
            "seeds": [r["seed"] for r in runs],
            "mean_edges_required": mean,
            "total": totals,
            "ratio": totals["lib"] / totals["pca"],
            "score": sum(r["base"] for r in runs) / n,
        },
        "runs": runs,
    }
    write_json(folder / "results.json", results)
    figure, (axes,) = panels(1, width=6.0)
    draw_edges_required(mean, runs[0]["names"], axes=axes)
    axes.set_title(f"{name}: mean over {n} seeds")
    figure.savefig(folder / "edges-required.png", dpi=150)
    return results
