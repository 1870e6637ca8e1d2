"""Modules: communities of directions that interact strongly, on a logarithmic scale of strength.

An edge weighs log10(E / eps), and nothing below eps, the smallest edge that its section needs (see
`required.py`). Communities maximise Newman's modularity

    Q = sum over modules c of  W_c / W - resolution (degree_c / 2W)^2

by networkx's Louvain method, or by networkit's or scikit-network's if they are installed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from subscape._checks import optional, require
from subscape._shapes import Float
from subscape.interaction_basis.graph import InteractionGraph

if TYPE_CHECKING:
    import networkx

Node = tuple[int, int]
"""(node layer, direction)."""
Library = Literal["networkx", "networkit", "scikit-network"]

N_STARTS = 10
"""Runs of networkx's Louvain method, each in its own order; the partition of highest modularity stays."""
MOST_SIZES = 12
"""In a description of modules in words."""


@dataclass(frozen=True)
class Module:
    """A community of more than one direction."""

    members: tuple[Node, ...]
    """Sorted by layer and direction."""
    weight: float
    """Log-scaled weight of the edges inside it."""

    def directions(self, layer: int) -> tuple[int, ...]:
        """Its directions in one node layer."""
        return tuple(direction for at, direction in self.members if at == layer)


@dataclass(frozen=True)
class Modules:
    """The communities of an interaction graph."""

    modules: tuple[Module, ...]
    """The largest first; directions that join no other are left out."""
    modularity: float
    """Q at resolution 1, whatever resolution the communities were found at."""
    resolution: float
    cross_weight: float
    """Share of the weight that lies between modules."""

    @property
    def sizes(self) -> list[int]:
        """Directions per module."""
        return [len(module.members) for module in self.modules]

    @property
    def described(self) -> str:
        """Their number, sizes and modularity in words."""
        if not self.modules:
            return "no modules"
        sizes = ", ".join(map(str, self.sizes[:MOST_SIZES]))
        more = ", …" if len(self.sizes) > MOST_SIZES else ""
        return f"{len(self.sizes)} modules of {sizes}{more}, Q = {self.modularity:.3f}"

    def of(self) -> dict[Node, int]:
        """The module of every direction that is in one."""
        return {node: n for n, module in enumerate(self.modules) for node in module.members}


def log_weights(
    edges: Float[Tensor, "next_direction direction"], threshold: float
) -> Float[Tensor, "next_direction direction"]:
    """max(0, log10(E / threshold))."""
    require(threshold > 0, "threshold", "a number above 0", threshold)
    tiny = torch.finfo(edges.dtype).tiny
    return (edges.clamp_min(tiny) / threshold).log10().clamp_min(0)


def weighted_graph(
    graph: InteractionGraph, thresholds: Sequence[float], last_layer: bool = False
) -> networkx.Graph:
    """The undirected graph whose communities are sought: nodes (layer, direction), edges of positive `weight`.

    Without the last layer the last section needs no threshold.
    """
    networkx = _library("networkx")
    n = len(graph.edges) if last_layer else len(graph.edges) - 1
    require(
        n >= 1,
        "graph",
        "at least two node layers that take part",
        f"{n + 1}",
        "Set last_layer = true to let the last one take part too.",
    )
    require(len(thresholds) >= n, "thresholds", f"one for each of {n} sections", len(thresholds))
    result = networkx.Graph()
    for layer, basis in enumerate(graph.bases[: n + 1]):
        result.add_nodes_from((layer, direction) for direction in range(basis.rank))
    for layer in range(n):
        weights = log_weights(graph.edges[layer], thresholds[layer])
        to, come_from = weights.nonzero(as_tuple=True)
        edges = zip(to.tolist(), come_from.tolist(), weights[to, come_from].tolist(), strict=True)
        result.add_weighted_edges_from(((layer, j), (layer + 1, i), w) for i, j, w in edges)
    return result


def find_modules(
    graph: InteractionGraph,
    thresholds: Sequence[float],
    *,
    resolution: float = 1.0,
    seed: int = 0,
    last_layer: bool = False,
    library: Library = "networkx",
) -> Modules:
    """Find the modules of an interaction graph.

    `thresholds` are the eps of every section, such as those of `all_edges_required`; `resolution` is gamma, a
    higher one makes smaller modules; logits take no part, as published, unless `last_layer`.
    """
    require(resolution > 0, "resolution", "a number above 0", resolution)
    known = get_args(Library)
    require(library in known, "library", f"one of {', '.join(known)}", repr(library))
    networkx = _library("networkx")
    weighted = weighted_graph(graph, thresholds, last_layer)
    if weighted.number_of_edges() == 0:
        return Modules((), 0.0, resolution, 0.0)
    find = {"networkx": _networkx, "networkit": _networkit, "scikit-network": _scikit_network}
    parts = [set(part) for part in find[library](weighted, resolution, seed)]
    modularity = networkx.community.modularity(weighted, parts)
    modules = [_module(weighted, part) for part in parts if len(part) > 1]
    modules.sort(key=lambda module: (-len(module.members), module.members))
    whole = weighted.size(weight="weight")
    inside = sum(module.weight for module in modules)
    return Modules(tuple(modules), float(modularity), resolution, max(0.0, 1 - inside / whole))


def _module(weighted: networkx.Graph, part: Iterable[Node]) -> Module:
    members = tuple(sorted(part))
    return Module(members, float(weighted.subgraph(members).size(weight="weight")))


def _networkx(weighted: networkx.Graph, resolution: float, seed: int) -> list[set[Node]]:
    community = _library("networkx").community
    # A single start often ends in a partition that is not the best.
    starts = [
        community.louvain_communities(weighted, resolution=resolution, seed=N_STARTS * seed + start)
        for start in range(N_STARTS)
    ]
    return max(
        starts, key=lambda parts: community.modularity(weighted, parts, resolution=resolution)
    )


def _networkit(weighted: networkx.Graph, resolution: float, seed: int) -> list[set[Node]]:
    networkit = _library("networkit", "networkit")
    networkit.engineering.setSeed(seed, True)
    nodes = list(weighted.nodes)
    number = {node: n for n, node in enumerate(nodes)}
    graph = networkit.graph.Graph(len(nodes), weighted=True)
    for one, other, weight in weighted.edges(data="weight"):
        graph.addEdge(number[one], number[other], weight)
    leiden = networkit.community.ParallelLeiden(graph, gamma=resolution, iterations=10)
    return _grouped(nodes, leiden.run().getPartition().getVector())


def _scikit_network(weighted: networkx.Graph, resolution: float, seed: int) -> list[set[Node]]:
    clustering = _library("sknetwork.clustering", "scikit-network")
    adjacency = _library("networkx").to_scipy_sparse_array(weighted, weight="weight")
    method = clustering.Louvain(resolution=resolution, random_state=seed)
    return _grouped(list(weighted.nodes), method.fit_predict(adjacency.tocsr()))


def _grouped(nodes: list[Node], labels: Iterable[int]) -> list[set[Node]]:
    parts: dict[int, set[Node]] = defaultdict(set)
    for node, label in zip(nodes, labels, strict=True):
        parts[int(label)].add(node)
    return list(parts.values())


def _library(module: str, install: str = "'subscape[graph]'") -> Any:
    return optional(module, "to find modules", install)
