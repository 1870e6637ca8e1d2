"""The interaction graph: a basis per node layer and the edges between consecutive ones.

Made by `build_graph`, saved as a folder, exported to networkx. Which edges matter is the business of
`ablation.py` and `required.py`; communities are found in `modules.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from subscape._checks import optional, require
from subscape._io import (
    holds_just,
    new_folder,
    read_json,
    read_metadata,
    read_tensors,
    write_json,
    write_tensors,
)
from subscape._progress import bar
from subscape.interaction_basis.basis import LayerBasis, from_tensors, to_tensors
from subscape.interaction_basis.build import Bases, activations, digest
from subscape.interaction_basis.chain import Chain
from subscape.interaction_basis.edges import interactions

if TYPE_CHECKING:
    import networkx

VERSION = 1
"""Of the folder's format."""


@dataclass(frozen=True)
class InteractionGraph:
    """Bases, and edges from every node layer to the next."""

    bases: tuple[LayerBasis, ...]
    edges: tuple[Tensor, ...]
    """One matrix [next_direction, direction] per section: from column to row."""

    def __post_init__(self) -> None:
        require(
            len(self.bases) == len(self.edges) + 1,
            "edges",
            f"one matrix for each of {len(self.bases) - 1} sections",
            f"{len(self.edges)}",
        )
        for number, edges in enumerate(self.edges):
            shape = (self.bases[number + 1].rank, self.bases[number].rank)
            require(
                tuple(edges.shape) == shape,
                f"edges[{number}]",
                f"{shape[0]} x {shape[1]} edges, as the bases have directions",
                f"{list(edges.shape)}",
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Of the node layers."""
        return tuple(basis.name for basis in self.bases)

    def to(self, device: torch.device) -> InteractionGraph:
        """The same graph on a device."""
        bases = tuple(basis.to(device) for basis in self.bases)
        return InteractionGraph(bases, tuple(edges.to(device) for edges in self.edges))

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write `graph.json`, `bases.safetensors` and `edges.safetensors` to a new folder, or over a graph."""
        tensors, described = to_tensors({f"{n:03}": basis for n, basis in enumerate(self.bases)})
        with new_folder(folder, overwrite=overwrite, owned=_is_graph) as path:
            layers = list(described.values())
            write_json(path / "graph.json", {"version": VERSION, "layers": layers})
            write_tensors(path / "bases.safetensors", tensors)
            edges = {f"{number:03}": e for number, e in enumerate(self.edges)}
            write_tensors(path / "edges.safetensors", edges)

    @classmethod
    def load(cls, folder: str | Path) -> InteractionGraph:
        """Read a folder that `save` wrote, onto the CPU."""
        folder = Path(folder)
        described: dict[str, Any] = read_json(folder / "graph.json")
        require(
            described.get("version") == VERSION,
            str(folder),
            f"an interaction graph of version {VERSION}",
            f"version {described.get('version')}",
            "Build it again with this version of subscape.",
        )
        tensors = read_tensors(folder / "bases.safetensors")
        edges = read_tensors(folder / "edges.safetensors")
        layers = {f"{n:03}": layer for n, layer in enumerate(described["layers"])}
        bases = tuple(from_tensors(tensors, layers).values())
        return cls(bases, tuple(edges[f"{n:03}"] for n in range(len(bases) - 1)))

    def to_networkx(self, smallest: float | Sequence[float] = 0.0) -> networkx.DiGraph:
        """A graph of nodes (layer, direction) with `layer_name` and `importance`, and edges with `weight`.

        Edges at or below `smallest`, one number or one for every section, are left out.
        """
        networkx = optional("networkx", "to export a graph", "'subscape[graph]'")
        limits = [smallest] * len(self.edges) if isinstance(smallest, int | float) else smallest
        require(
            len(limits) == len(self.edges),
            "smallest",
            f"one number for each of {len(self.edges)} sections",
            len(limits),
        )
        graph = networkx.DiGraph()
        for layer, basis in enumerate(self.bases):
            for direction, importance in enumerate(basis.importance.tolist()):
                graph.add_node((layer, direction), layer_name=basis.name, importance=importance)
        for layer, (edges, limit) in enumerate(zip(self.edges, limits, strict=True)):
            to, come_from = (edges > limit).nonzero(as_tuple=True)
            kept = zip(to.tolist(), come_from.tolist(), edges[to, come_from].tolist(), strict=True)
            graph.add_weighted_edges_from(((layer, j), (layer + 1, i), w) for i, j, w in kept)
        return graph


def _is_graph(folder: Path) -> bool:
    return holds_just(folder, "graph.json", "bases.safetensors", "edges.safetensors")


def build_graph(
    chain: Chain,
    bases: Bases,
    inputs: Tensor,
    *,
    method: str = "lib",
    folder: str | Path | None = None,
    progress: bool = False,
) -> InteractionGraph:
    """Compute the edges between the bases (`lib` or `pca`) of consecutive node layers.

    The settings of `bases` say the path and the size of batches. Every layer's edges are saved in `folder` as
    soon as they are made, and a later call goes on from there.
    """
    layers, config = bases.of(method), bases.config
    where = None if folder is None else Path(folder)
    edges = []
    for layer in bar(f"edges {method}", range(len(chain)), progress=progress):
        basis, next_basis = layers[layer : layer + 2]
        made_of = digest(inputs, basis.into, next_basis.into)
        if config.path_points:
            made_of += f", {config.path_points} points from {config.baseline}"
        path = where and where / "edges" / f"{method}-{layer:03}.safetensors"
        if path and path.exists():
            require(
                read_metadata(path).get("made_of") == made_of,
                "folder",
                "a folder begun with the same bases and data",
                f"{path}, which was made of others",
                "Choose another folder, or delete this one.",
            )
            edges.append(read_tensors(path)["edges"].to(basis.into))
            continue
        found = interactions(
            chain.sections[layer],
            basis,
            next_basis,
            activations(chain, layer, inputs, config.batch_size),
            quadrature=config.quadrature,
            baseline=config.baseline,
        )
        if path:
            write_tensors(path, {"edges": found}, {"made_of": made_of})
        edges.append(found)
    return InteractionGraph(layers, tuple(edges))
