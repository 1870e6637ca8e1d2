"""Modules beside those of the same network with its weights shuffled: what its architecture alone gives.

Such a network does nothing, so that no score can say which edges it needs: it gets as many edges in every section
as the trained one.
"""

from __future__ import annotations

from collections.abc import Sequence

from subscape._checks import problem, require
from subscape._progress import bar
from subscape.interaction_basis.build import BasisConfig, build_bases
from subscape.interaction_basis.graph import InteractionGraph, build_graph
from subscape.interaction_basis.modules import FEW_SWAPPED, Modules, find_modules
from subscape.interaction_basis.null import Chance, chance
from subscape.interaction_basis.required import ABOVE
from subscape.interaction_basis.task import Task

N_INPUTS = 500
"""Samples for Jacobians and edges of a shuffled network, at most; which edges are large needs no more."""


def against_shuffled(
    task: Task,
    config: BasisConfig,
    graph: InteractionGraph,
    thresholds: Sequence[float],
    modules: Modules,
    n_networks: int,
    *,
    method: str = "lib",
    last_layer: bool = False,
    seed: int = 0,
    progress: bool = False,
) -> Chance:
    """What modularity exceeds that of swapped edges by, beside the same of so many shuffled networks.

    Every network has bases, edges, modules and swapped edges of its own. Plain modularity would not do: the fewer
    edges a direction has the higher it is, and shuffled networks spread theirs over more directions.

    Raises:
        ValueError: if the task cannot shuffle its weights, or the modules were not compared with swapped edges.
    """
    if task.weights is None:
        raise ValueError(
            problem(
                "n_networks",
                "0 for a task that cannot shuffle its weights",
                n_networks,
                "Give the task its `weights`, a Weights(tensors, chain_of).",
            )
        )
    require(n_networks >= 2, "n_networks", "0, or at least 2", n_networks)
    own = _excess(modules)
    inputs = task.inputs[:N_INPUTS]
    gram_inputs = task.inputs if task.gram_inputs is None else task.gram_inputs
    counts = [int((e >= t).sum()) for e, t in zip(graph.edges, thresholds, strict=True)]
    others = []
    for number in bar("shuffled networks", range(n_networks), progress=progress):
        chain = task.weights.shuffled(seed + number)
        bases = build_bases(chain, inputs, config, gram_inputs=gram_inputs)
        other = build_graph(chain, bases, inputs, method=method)
        limits = [
            float(e.flatten().topk(min(n, e.numel())).values[-1]) if n else float(ABOVE * e.max())
            for e, n in zip(other.edges, counts, strict=True)
        ]
        found = find_modules(
            other,
            limits,
            resolution=modules.resolution,
            last_layer=last_layer,
            seed=seed,
            n_swapped=FEW_SWAPPED,
        )
        others.append(_excess(found))
    return chance(own, others)


def _excess(modules: Modules) -> float:
    if not modules.modules:
        return 0.0
    if modules.swaps is None:
        expected = "modules that were compared with swapped edges"
        raise ValueError(problem("modules", expected, "others", "Find them with n_swapped."))
    return modules.swaps.modularity - modules.swaps.mean
