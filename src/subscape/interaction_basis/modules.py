"""Modules: communities of directions that interact strongly, on a logarithmic scale of strength.

An edge weighs log10(E / eps), and nothing below eps, the smallest edge that its section needs (see
`required.py`). Communities maximise Newman's modularity

    Q = sum over modules c of  W_c / W - resolution (degree_c / 2W)^2

by many Louvain searches (see `louvain.py`), or by networkx, networkit or scikit-network. Whether they are more
than chance is said beside them (see `null.py`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from subscape._checks import optional, require
from subscape._shapes import Float, Int
from subscape.interaction_basis.graph import InteractionGraph
from subscape.interaction_basis.louvain import searches
from subscape.interaction_basis.null import Chance, Edge, against_swaps, dense

if TYPE_CHECKING:
    import networkx

Node = tuple[int, int]
"""(node layer, direction)."""
Library = Literal["louvain", "networkx", "networkit", "scikit-network"]

N_STARTS = 10
"""Runs of networkx's method, each in its own order; the partition of highest modularity stays."""
FEWEST, MOST_STARTS, SPENT = 100, 500, 20_000
"""Searches of ours: so many divided by the number of linked directions, within these bounds."""
N_SWAPPED, FEW_SWAPPED, LARGE = 100, 20, 300
"""Swapped graphs to compare with, up to so many linked directions and beyond."""
MOST_NODES = 4000
"""Linked directions above which the dense matrices of our searches take too much memory."""
SAME = 1e-9
"""Difference of modularity that is rounding."""
MOST_SIZES = 12
"""In a description of modules in words."""


@dataclass(frozen=True)
class Module:
    """A community of more than one direction."""

    members: tuple[Node, ...]
    """Sorted by layer and direction."""
    weight: float
    """Log-scaled weight of the edges inside it."""
    stability: float = 1.0
    """Overlap (Jaccard index) with the most similar community of another search, the mean over all searches."""

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
    n_starts: int = 1
    """Searches, the best of which this is."""
    share_at_best: float = 1.0
    """Of the searches, those that ended at this modularity."""
    swaps: Chance | None = None
    """Beside graphs with swapped edges; None where they were not made."""
    randomised: Chance | None = None
    """What it exceeds `swaps` by, beside that of shuffled weights; None where these were not run."""

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
        words = f"{len(self.sizes)} modules of {sizes}{more}, Q = {self.modularity:.3f}"
        against = [f"{beside.described} against {name}" for name, beside in self._beside]
        if not against:
            return words
        verdict = "" if self.beyond else "no modules beyond chance: "
        return f"{words}, {verdict}{'; '.join(against)}"

    @property
    def beyond(self) -> bool:
        """Whether the modules are more than chance by all that they were compared with."""
        return all(beside.beyond for _, beside in self._beside)

    @property
    def _beside(self) -> list[tuple[str, Chance]]:
        both = ("swapped edges", self.swaps), ("shuffled weights", self.randomised)
        return [(name, beside) for name, beside in both if beside is not None]

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
    library: Library = "louvain",
    n_swapped: int | None = None,
) -> Modules:
    """Find the modules of an interaction graph, and whether they are more than chance.

    Args:
        graph: bases and edges.
        thresholds: the eps of every section, such as those of `all_edges_required`.
        resolution: gamma; a higher one makes smaller modules.
        seed: of the searches, whose best partition hardly depends on it.
        last_layer: whether the last layer takes part; logits do not, as published.
        library: what finds the communities.
        n_swapped: graphs with swapped edges to compare with; 0 compares with none, None takes 100, or 20 where the
            graph is large.
    """
    require(resolution > 0, "resolution", "a number above 0", resolution)
    known = get_args(Library)
    require(library in known, "library", f"one of {', '.join(known)}", repr(library))
    networkx = _library("networkx")
    weighted = weighted_graph(graph, thresholds, last_layer)
    if weighted.number_of_edges() == 0:
        return Modules((), 0.0, resolution, 0.0)
    sections, n_nodes, nodes = _linked(weighted)
    small = len(nodes) <= MOST_NODES
    labels, scores = None, torch.empty(0)
    if small:
        n_starts = min(MOST_STARTS, max(FEWEST, SPENT // len(nodes)))
        (labels,), (scores,) = searches(dense(sections, n_nodes)[None], n_starts, resolution, seed)
    if library == "louvain" and labels is not None:
        parts = _grouped(nodes, _best(labels, scores))
        parts += [{node} for node in weighted if not weighted.degree(node)]
    else:
        find = {"networkit": _networkit, "scikit-network": _scikit_network}.get(library, _networkx)
        parts = [set(part) for part in find(weighted, resolution, seed)]
    modularity = float(networkx.community.modularity(weighted, parts))
    modules = [_module(weighted, part) for part in parts if len(part) > 1]
    modules.sort(key=lambda module: (-len(module.members), module.members))
    whole = weighted.size(weight="weight")
    inside = sum(module.weight for module in modules)
    found = Modules(tuple(modules), modularity, resolution, max(0.0, 1 - inside / whole))
    if labels is None:
        return found
    if n_swapped is None:
        n_swapped = N_SWAPPED if len(nodes) <= LARGE else FEW_SWAPPED
    best = float(networkx.community.modularity(weighted, parts, resolution=resolution))
    return replace(
        found,
        modules=tuple(replace(m, stability=_stability(m, nodes, labels)) for m in modules),
        n_starts=len(scores),
        share_at_best=float((scores >= best - SAME).double().mean()),
        swaps=against_swaps(
            sections, n_nodes, scores, resolution=resolution, seed=seed, n_graphs=n_swapped
        )
        if n_swapped
        else None,
    )


def _best(labels: Int[Tensor, "start node"], scores: Float[Tensor, " start"]) -> list[int]:
    """The labels of highest modularity, numbered as they come; of equal ones the same, whatever the seed."""
    choices = []
    for found in labels[scores >= scores.max() - SAME].unique(dim=0).tolist():
        number: dict[int, int] = {}
        choices.append([number.setdefault(label, len(number)) for label in found])
    return min(choices)


def _linked(weighted: networkx.Graph) -> tuple[list[list[Edge]], list[int], list[Node]]:
    """Edges by section, directions per layer and all directions in order, without those that have no edge."""
    nodes = sorted(node for node in weighted if weighted.degree(node))
    layers = sorted({layer for layer, _ in nodes})
    place = {
        node: n for layer in layers for n, node in enumerate(x for x in nodes if x[0] == layer)
    }
    sections: list[list[Edge]] = [[] for _ in layers[1:]]
    for one, other, weight in weighted.edges(data="weight"):
        a, b = sorted((one, other))
        sections[layers.index(a[0])].append((place[a], place[b], weight))
    return sections, [sum(node[0] == layer for node in nodes) for layer in layers], nodes


def _stability(module: Module, nodes: Sequence[Node], labels: Int[Tensor, "start node"]) -> float:
    """The mean over searches of the overlap with the community that overlaps most."""
    members = set(module.members)
    mine = torch.tensor([node in members for node in nodes])
    n = int(labels.max()) + 1
    communities = torch.nn.functional.one_hot(labels, n).double()  # [start, node, community]
    common = communities[:, mine].sum(1)
    either = communities.sum(1) + int(mine.sum()) - common
    return float((common / either).amax(1).mean())


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
