"""From a task to a run folder, stage by stage: bases, edges, ablations, modules, pictures.

    build/           bases, edges and ablations, layer by layer, from where an interrupted run goes on
    lib/, pca/       the interaction graphs; random/, where asked for, of a random rotation
    labels.json      text for directions, where the task has it
    ablation.json    edges required, curves over edges and directions
    modules.json     communities of both graphs
    effects.json, responses-lib.json, responses-pca.json
                     scores without modules and with one alone, and what directions respond to
    figures, graph-lib.html, graph-pca.html

Every stage reads what the one before it wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from subscape._checks import require
from subscape._io import read_json, remove_half_written, write_json
from subscape._lock import locked
from subscape._progress import bar
from subscape.interaction_basis.ablation import LargestEdges, curve_of, node_curve
from subscape.interaction_basis.basis import rotated_basis
from subscape.interaction_basis.build import Bases, BasisConfig, build_bases, digest
from subscape.interaction_basis.causal import Effect, module_effects
from subscape.interaction_basis.graph import InteractionGraph, build_graph
from subscape.interaction_basis.modules import Library, Modules, Node, find_modules
from subscape.interaction_basis.randomised import against_shuffled
from subscape.interaction_basis.required import Midpoint, required_of
from subscape.interaction_basis.responses import responses
from subscape.interaction_basis.task import Task

METHODS = ("lib", "pca")
BASELINES = (*METHODS, "random")
"""With the random rotation, which has edges required and nothing else."""
SECTION = ("n_edges", "threshold", "score", "n_total")
"""What ablation.json keeps of the edges that a section requires."""


@dataclass(frozen=True)
class Shuffled:
    """Networks with shuffled weights to compare modules with."""

    task: Callable[[], Task]
    config: BasisConfig
    n_networks: int
    if_beyond: bool = False
    """Only modules that swapped edges do not explain, and only of a task that can shuffle its weights."""

    def wanted(self, modules: Modules) -> bool:
        """Whether these are to be compared."""
        if not modules.modules:
            return False
        if not self.if_beyond:
            return True
        return modules.swaps is not None and modules.beyond and self.task().weights is not None


@contextmanager
def own(folder: Path) -> Generator[None]:
    """Have a run folder to oneself, without what killed processes left half written."""
    with locked(folder):
        for place in (folder / "build", *(folder / "build").glob("*/")):
            if place.is_dir():
                remove_half_written(place)
        yield


def build_stage(task: Task, config: BasisConfig, folder: Path, *, progress: bool = False) -> Bases:
    """Compute the bases, or read those that are there."""
    kept = {"folder": folder / "build", "progress": progress}
    with own(folder):
        return build_bases(task.chain, task.inputs, config, gram_inputs=task.gram_inputs, **kept)


def edges_stage(
    task: Task,
    config: BasisConfig,
    folder: Path,
    *,
    random_rotation: bool = False,
    progress: bool = False,
) -> dict[str, InteractionGraph]:
    """Compute the edges of both methods and write the graphs, and the labels if the task has some.

    With `random_rotation` a third graph is written, of principal directions rotated at random.
    """
    with own(folder):
        bases = build_stage(task, config, folder, progress=progress)
        kept = {"folder": folder / "build", "progress": progress}
        graphs = {m: build_graph(task.chain, bases, task.inputs, method=m, **kept) for m in METHODS}
        for method, graph in graphs.items():
            graph.save(folder / method, overwrite=True)
        if random_rotation and not (folder / "random").exists():
            turned = tuple(rotated_basis(basis, seed) for seed, basis in enumerate(bases.pca))
            random = build_graph(task.chain, Bases(turned, turned, config), task.inputs)
            random.save(folder / "random", overwrite=True)
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
    with own(folder):
        return _ablated(task, folder, tolerance, midpoint, curves, progress)


def _ablated(
    task: Task, folder: Path, tolerance: float, midpoint: Midpoint, curves: bool, progress: bool
) -> dict[str, Any]:
    graphs, chain, on = load_graphs(folder), task.scoring, task.scored
    if (folder / "random").exists():
        graphs["random"] = InteractionGraph.load(folder / "random")
    base, device = on.base(chain), chain.embed(on.inputs[:1]).device
    result: dict[str, Any] = {"score": on.score.name, "base": base, "tolerance": tolerance}
    made_of = {**result, "midpoint": midpoint, "curves": curves}
    made_of["data"] = digest(on.inputs, on.labels)
    result["names"] = list(chain.names)

    def flat(score: float) -> bool:
        return on.score.within(score, base, tolerance)

    def row(method: str, layer: int) -> dict[str, Any]:
        """What is known of one section, kept as soon as it is there."""
        path = folder / "build" / "ablation" / f"{method}-{layer:03}.json"
        graph = graphs[method]
        basis, next_basis = graph.bases[layer : layer + 2]
        of = digest(graph.edges[layer], basis.into, basis.back, next_basis.into)
        if path.exists() and read_json(path)["made_of"] == {**made_of, "graph": of}:
            return read_json(path)
        kept = LargestEdges(chain, layer, graph.bases, graph.edges[layer], on)
        found = required_of(kept, (basis, next_basis), base, tolerance, midpoint)
        content: dict[str, Any] = {"made_of": {**made_of, "graph": of}}
        content["section"] = {name: getattr(found, name) for name in SECTION}
        if curves and method in METHODS:
            content["edge_curve"] = curve_of(kept, flat=flat)
            content["node_curve"] = node_curve(chain, layer, basis, on, flat=flat)
        write_json(path, content)
        return read_json(path)

    with bar("ablate", total=len(chain) * len(graphs), progress=progress) as done:
        for method in graphs:
            graphs[method] = graphs[method].to(device)
            rows = []
            for layer in range(len(chain)):
                rows.append(row(method, layer))
                done.update()
            result[method] = {
                "sections": [row["section"] for row in rows],
                "edge_curves": [row["edge_curve"] for row in rows if "edge_curve" in row],
                "node_curves": [row["node_curve"] for row in rows if "node_curve" in row],
            }
    totals = {m: sum(s["n_edges"] for s in result[m]["sections"]) for m in graphs}
    result["total"] = totals
    # Of two small numbers a ratio says little, of none nothing.
    result["ratio"] = totals["lib"] / totals["pca"] if totals["pca"] else None
    write_json(folder / "ablation.json", result)
    return result


def modules_stage(
    folder: Path,
    *,
    resolution: float = 1.0,
    seed: int = 0,
    last_layer: bool = False,
    library: Library = "louvain",
    shuffled: Shuffled | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Find the modules of both graphs: what is in modules.json."""
    result: dict[str, Any] = {"resolution": resolution, "last_layer": last_layer}
    with own(folder):
        ablation = read_json(made_by("ablate", folder / "ablation.json"))
        for method, graph in load_graphs(folder).items():
            limits = thresholds(ablation, method)
            same = {"seed": seed, "last_layer": last_layer}
            found = find_modules(graph, limits, resolution=resolution, library=library, **same)
            if shuffled is not None and shuffled.wanted(found):
                beside = against_shuffled(
                    shuffled.task(),
                    shuffled.config,
                    graph,
                    limits,
                    found,
                    shuffled.n_networks,
                    method=method,
                    progress=progress,
                    **same,
                )
                found = replace(found, randomised=beside)
            result[method] = {"sizes": found.sizes, **msgspec.to_builtins(found)}
            result[method] |= {"described": found.described, "beyond": found.beyond}
            result[method]["thresholds"] = limits
        write_json(folder / "modules.json", result)
    return result


def effects_stage(task: Task, folder: Path) -> dict[str, Any]:
    """Take away and keep alone every module, and look at what directions respond to: two files."""
    with own(folder):
        graphs, modules = load_graphs(folder), load_modules(folder)
        chain, on = task.scoring, task.scored
        device = chain.embed(on.inputs[:1]).device
        result: dict[str, Any] = {"score": on.score.name, "base": on.base(chain)}
        result["thresholds"] = {
            m: read_json(folder / "modules.json")[m]["thresholds"] for m in METHODS
        }
        for method in METHODS:
            graph = graphs[method].to(device)
            effects = module_effects(chain, graph, modules[method], on)
            result[method] = msgspec.to_builtins(effects)
            shown = responses(chain, graph, task.inputs, words=task.words)
            write_json(folder / f"responses-{method}.json", shown)
        write_json(folder / "effects.json", result)
    return result


def load_effects(folder: Path, method: str) -> list[Effect]:
    """What `effects_stage` wrote, if it is of the modules as they are now."""
    path = folder / "effects.json"
    kept = read_json(path) if path.exists() else {}
    of = read_json(folder / "modules.json")
    if any(kept.get("thresholds", {}).get(m) != of[m]["thresholds"] for m in METHODS):
        return []
    return msgspec.convert(kept[method], list[Effect])


def load_modules(folder: Path) -> dict[str, Modules]:
    """Read the modules that `modules_stage` wrote."""
    path = made_by("modules", folder / "modules.json")
    kept, ablation = read_json(path), read_json(made_by("ablate", folder / "ablation.json"))
    require(
        all(kept[m].get("thresholds") == thresholds(ablation, m) for m in METHODS),
        "run",
        "modules of the edges required as they are now",
        f"{path}, which is of another tolerance",
        "Run `subscape basis modules` first.",
    )
    one = {"resolution": kept["resolution"]}
    return {method: msgspec.convert(one | kept[method], Modules) for method in METHODS}


def thresholds(ablation: dict[str, Any], method: str) -> list[float]:
    """The smallest required edge of every section."""
    return [section["threshold"] for section in ablation[method]["sections"]]


def load_labels(folder: Path, method: str) -> dict[Node, str]:
    """The labels of a run's directions; none where the task has none."""
    path = folder / "labels.json"
    if not path.exists():
        return {}
    labels = read_json(path)[method].items()
    return {(int(layer), int(d)): text for key, text in labels for layer, d in [key.split(".")]}


def made_by(stage: str, path: Path) -> Path:
    """The path, which the stage of that name makes in a run folder; refused if it has not been there."""
    require(
        path.exists(),
        "run",
        f"a run with {path.name}",
        f"{path.parent}, which has none",
        f"Run `subscape basis {stage}` first.",
    )
    return path
