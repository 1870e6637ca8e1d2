"""From a task to a run folder, stage by stage: bases, edges, ablations, modules, pictures.

    build/           bases, edges and ablations, layer by layer, from where an interrupted run goes on
    lib/, pca/       the interaction graphs
    labels.json      text for directions, where the task has it
    ablation.json    edges required, curves over edges and directions
    modules.json     communities of both graphs
    figures, graph-lib.html, graph-pca.html

Every stage reads what the one before it wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from subscape._checks import problem
from subscape._io import read_json, write_json
from subscape._lock import locked
from subscape.interaction_basis.ablation import edge_curve, node_curve
from subscape.interaction_basis.build import Bases, BasisConfig, build_bases, digest
from subscape.interaction_basis.graph import InteractionGraph, build_graph
from subscape.interaction_basis.modules import Library, find_modules
from subscape.interaction_basis.required import Midpoint, edges_required
from subscape.interaction_basis.task import Task

METHODS = ("lib", "pca")
Node = tuple[int, int]


def build_stage(task: Task, config: BasisConfig, folder: Path, *, progress: bool = False) -> Bases:
    """Compute the bases, or read those that are there."""
    with locked(folder):
        return build_bases(
            task.chain,
            task.inputs,
            config,
            gram_inputs=task.gram_inputs,
            folder=folder / "build",
            progress=progress,
        )


def edges_stage(
    task: Task, config: BasisConfig, folder: Path, *, progress: bool = False
) -> dict[str, InteractionGraph]:
    """Compute the edges of both methods and write the graphs, and the labels if the task has some."""
    with locked(folder):
        bases = build_stage(task, config, folder, progress=progress)
        graphs = {}
        for method in METHODS:
            graphs[method] = build_graph(
                task.chain,
                bases,
                task.inputs,
                method=method,
                folder=folder / "build",
                progress=progress,
            )
            graphs[method].save(folder / method, overwrite=True)
        if task.label is not None:
            labels = {
                method: {f"{layer}.{d}": text for (layer, d), text in task.label(graph).items()}
                for method, graph in graphs.items()
            }
            write_json(folder / "labels.json", labels)
    return graphs


def load_graphs(folder: Path) -> dict[str, InteractionGraph]:
    """Read the graphs that `edges_stage` wrote."""
    return {method: InteractionGraph.load(made_by("edges", folder / method)) for method in METHODS}


def ablate_stage(
    task: Task,
    folder: Path,
    tolerance: float,
    *,
    midpoint: Midpoint = "linear",
    curves: bool = True,
    progress: bool = False,
) -> dict[str, Any]:
    """Count the edges that every section needs and draw up the curves: what is in ablation.json."""
    graphs, chain, on = load_graphs(folder), task.scoring, task.scored
    base, device = on.base(chain), chain.embed(on.inputs[:1]).device
    settings = {"score": on.score.name, "base": base, "tolerance": tolerance}
    result: dict[str, Any] = {**settings, "names": list(chain.names)}
    settings |= {"midpoint": midpoint, "curves": curves, "data": digest(on.inputs, on.labels)}
    with tqdm(total=len(chain) * len(METHODS), desc="ablate", disable=not progress) as bar:
        for method in METHODS:
            graph = graphs[method].to(device)
            rows = []
            for layer in range(len(chain)):
                basis, next_basis = graph.bases[layer : layer + 2]
                of = digest(graph.edges[layer], basis.into, basis.back, next_basis.into)
                row = _made_before(
                    folder / "build" / "ablation" / f"{method}-{layer:03}.json",
                    {**settings, "graph": of},
                    lambda graph=graph, layer=layer: _ablate_layer(
                        task, graph, layer, tolerance, base=base, midpoint=midpoint, curves=curves
                    ),
                )
                rows.append(row)
                bar.update()
            result[method] = {
                "sections": [row["section"] for row in rows],
                "edge_curves": [row["edge_curve"] for row in rows if curves],
                "node_curves": [row["node_curve"] for row in rows if curves],
            }
    totals = {m: sum(s["n_edges"] for s in result[m]["sections"]) for m in METHODS}
    result["total"] = totals
    result["ratio"] = totals["lib"] / totals["pca"]
    path = folder / "ablation.json"
    if path.exists() and any(
        thresholds(read_json(path), m) != thresholds(result, m) for m in METHODS
    ):
        # Modules rest on the thresholds.
        (folder / "modules.json").unlink(missing_ok=True)
    write_json(path, result)
    return result


def _ablate_layer(
    task: Task,
    graph: InteractionGraph,
    layer: int,
    tolerance: float,
    *,
    base: float,
    midpoint: Midpoint,
    curves: bool,
) -> dict[str, Any]:
    chain, on = task.scoring, task.scored
    found = edges_required(chain, graph, layer, on, tolerance, base=base, midpoint=midpoint)
    row: dict[str, Any] = {
        "section": {
            "n_edges": found.n_edges,
            "threshold": found.threshold,
            "score": found.score,
            "n_total": found.n_total,
        }
    }
    if curves:
        row["edge_curve"] = edge_curve(chain, layer, graph.bases, graph.edges[layer], on)
        row["node_curve"] = node_curve(chain, layer, graph.bases[layer], on)
    return row


def _made_before(
    path: Path, made_of: dict[str, Any], make: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """What the file holds if it was made of the same, otherwise what is made now."""
    if not path.exists() or read_json(path)["made_of"] != made_of:
        write_json(path, {"made_of": made_of, **make()})
    return read_json(path)


def modules_stage(
    folder: Path,
    *,
    resolution: float = 1.0,
    seed: int = 0,
    last_layer: bool = False,
    library: Library = "networkx",
) -> dict[str, Any]:
    """Find the modules of both graphs: what is in modules.json."""
    ablation = read_json(made_by("ablate", folder / "ablation.json"))
    result: dict[str, Any] = {"resolution": resolution, "last_layer": last_layer}
    for method, graph in load_graphs(folder).items():
        found = find_modules(
            graph,
            thresholds(ablation, method),
            resolution=resolution,
            seed=seed,
            last_layer=last_layer,
            library=library,
        )
        result[method] = {
            "sizes": found.sizes,
            "modularity": found.modularity,
            "cross_weight": found.cross_weight,
            "modules": [
                {"weight": module.weight, "members": [list(node) for node in module.members]}
                for module in found.modules
            ],
        }
    write_json(folder / "modules.json", result)
    return result


def thresholds(ablation: dict[str, Any], method: str) -> list[float]:
    """The smallest required edge of every section."""
    return [section["threshold"] for section in ablation[method]["sections"]]


def load_labels(folder: Path, method: str) -> dict[Node, str]:
    """The labels of a run's directions; none where the task has none."""
    path = folder / "labels.json"
    if not path.exists():
        return {}
    labels: dict[Node, str] = {}
    for key, text in read_json(path)[method].items():
        layer, direction = key.split(".")
        labels[int(layer), int(direction)] = text
    return labels


def parse_nodes(nodes: Sequence[Sequence[int]]) -> tuple[Node, ...]:
    """(layer, direction) pairs out of JSON."""
    return tuple((layer, direction) for layer, direction in nodes)


def made_by(stage: str, path: Path) -> Path:
    """The path, which the stage of that name makes in a run folder; refused if it has not been there."""
    if not path.exists():
        raise ValueError(
            problem(
                "run",
                f"a run with {path.name}",
                f"{path.parent}, which has none",
                f"Run `subscape basis {stage}` first.",
            )
        )
    return path
