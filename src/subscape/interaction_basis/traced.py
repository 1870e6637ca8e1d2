"""The graph of a model's operations, and the chain that cuts in it make; see `cuts.py`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor
from torch.fx import GraphModule, Node, map_arg

from subscape._checks import require
from subscape.interaction_basis.batched import BATCHED
from subscape.interaction_basis.chain import Chain, Section

Layout = Literal["channel", "flat"]
"""Of an image in a node layer: every place is a position, its channels the width; or all numbers are the width."""


@dataclass(frozen=True)
class Cut:
    """Where a cut lies in the graph and how its tensors are put side by side."""

    name: str
    behind: int
    """Number of operations before it."""
    nodes: tuple[Node, ...]
    layout: Layout

    def pack(self, values: dict[Node, Any]) -> Tensor:
        """One sample of the node layer from what operations gave."""
        return torch.cat([_rows(values[node][0], self.layout) for node in self.nodes], -1)

    def unpack(self, packed: Tensor) -> dict[Node, Tensor]:
        """What `pack` was made of."""
        shapes = [tuple(node.meta["val"].shape[1:]) for node in self.nodes]
        widths = [
            _rows(torch.empty(shape, device="meta"), self.layout).shape[-1] for shape in shapes
        ]
        pieces = packed.split(widths, -1)
        return {
            node: _image(piece, shape, self.layout)[None].to(node.meta["val"].dtype)
            for node, piece, shape in zip(self.nodes, pieces, shapes, strict=True)
        }


def _rows(value: Tensor, layout: Layout) -> Tensor:
    """One sample as [width] or [position, width]."""
    if value.dim() >= 3 and layout == "channel" and prod(value.shape[1:]) > 1:
        return value.flatten(1).mT
    return value if value.dim() == 2 else value.flatten()


def _image(rows: Tensor, shape: tuple[int, ...], layout: Layout) -> Tensor:
    """What `_rows` was made of."""
    turned = len(shape) >= 3 and layout == "channel" and prod(shape[1:]) > 1
    return (rows.mT if turned else rows).reshape(shape)


class Traced:
    """The exported graph, in order, without what does not depend on the inputs; and the cuts in it."""

    def __init__(self, graph: GraphModule, cuts: Sequence[str], layout: Layout) -> None:
        self.layout: Layout = layout
        nodes = _with_parts_behind(graph)
        (self.input,) = (node for node in nodes if node.op == "placeholder")
        result = next(node for node in nodes if node.op == "output")
        self.output, *marks = (node for node in result.args[0])  # pyright: ignore[reportAssignmentType, reportOptionalIterable, reportGeneralTypeIssues]
        varying = {self.input}
        for node in nodes:
            if varying.intersection(node.all_input_nodes):
                varying.add(node)
        needed = {self.output}
        for node in reversed(nodes):
            if node in needed:
                needed.update(node.all_input_nodes)
        self.graph, self.every, self.varying = graph, nodes, varying & needed
        self.nodes = [n for n in nodes if n in varying & needed and n.op == "call_function"]
        place = {node: number for number, node in enumerate(self.nodes)} | {self.input: -1}
        for name, mark in zip(cuts, marks, strict=True):
            expected = "modules whose output the model's output depends on"
            require(mark in place, "cuts", expected, f"{name!r}, which it does not depend on")
        ordered = sorted(zip(cuts, marks, strict=True), key=lambda cut: place[cut[1]])
        self.cuts = [self._cut(name, mark, place) for name, mark in ordered]

    def _cut(self, name: str, mark: Node, place: dict[Node, int]) -> Cut:
        at = place[mark]
        live = [
            node
            for node in (self.input, *self.nodes[: at + 1])
            if node is self.output or any(place.get(user, -1) > at for user in node.users)
        ]
        # A tuple is never carried: its parts stand right behind it.
        live = [node for node in live if isinstance(node.meta["val"], Tensor)]
        rows = []
        for node in live:
            value = node.meta["val"]
            require(
                value.is_floating_point(),
                "cuts",
                f"floating-point numbers across the cut behind {name!r}",
                f"{value.dtype} of shape {list(value.shape[1:])} ({node.name})",
                "Cut where the inputs themselves are no longer used.",
            )
            rows.append(_rows(torch.empty(value.shape[1:], device="meta"), self.layout))
        require(
            len({row.shape[:-1] for row in rows}) == 1,
            "cuts",
            f"tensors of as many positions across the cut behind {name!r}",
            f"shapes {[list(node.meta['val'].shape[1:]) for node in live]}",
            "Cut elsewhere, or take layout='flat'.",
        )
        return Cut(name, at + 1, tuple(live), self.layout)

    def chain(self, weights: Mapping[str, Tensor]) -> Chain:
        """The sections, with these weights by the names that the graph has for them."""
        ends, own = self.cuts, _constants(self.graph, self.every, self.varying, weights)
        sections = tuple(
            self._section(own, a.behind, b.behind, a.unpack, b.pack)
            for a, b in zip(ends, ends[1:], strict=False)
        )
        n = len(self.nodes)
        embed = self._section(own, 0, ends[0].behind, self._given, ends[0].pack)
        readout = self._section(own, ends[-1].behind, n, ends[-1].unpack, self._result)
        return Chain(tuple(cut.name for cut in ends), sections, embed, readout)

    def _given(self, sample: Tensor) -> dict[Node, Tensor]:
        return {self.input: sample[None]}

    def _result(self, values: dict[Node, Any]) -> Tensor:
        return values[self.output][0]

    def _section(
        self,
        constants: dict[Node, Any],
        first: int,
        last: int,
        unpack: Callable[[Tensor], dict[Node, Tensor]],
        pack: Callable[[dict[Node, Any]], Tensor],
    ) -> Section:
        def one(sample: Tensor) -> Tensor:
            values: dict[Node, Any] = {**constants, **unpack(sample)}
            for node in self.nodes[first:last]:
                if node in values:
                    continue
                arguments, named = map_arg((node.args, node.kwargs), values.__getitem__)
                values[node] = node.target(*arguments, **named)  # pyright: ignore[reportCallIssue]
            return pack(values)

        return torch.vmap(one)


def _with_parts_behind(graph: GraphModule) -> list[Node]:
    """The operations in order, every part of a tuple right behind it, in versions that batches can do."""
    ordered: list[Node] = []
    for node in graph.graph.nodes:
        node.target = BATCHED.get(node.target, node.target)
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            continue
        if node.target is not operator.getitem:
            ordered.append(node)
            ordered += [user for user in node.users if user.target is operator.getitem]
    return ordered


@torch.no_grad()
def _constants(
    graph: GraphModule, nodes: list[Node], varying: set[Node], weights: Mapping[str, Tensor]
) -> dict[Node, Any]:
    """Values of what does not depend on the inputs: weights, masks, places; those that others read."""
    values: dict[Node, Any] = {}
    for node in nodes:
        if node in varying or node.op in ("placeholder", "output"):
            continue
        if node.op == "get_attr":
            name = str(node.target)
            found = weights[name] if name in weights else operator.attrgetter(name)(graph)
            values[node] = found.detach() if isinstance(found, Tensor) else found
        elif all(n in values for n in node.all_input_nodes):
            arguments, named = map_arg((node.args, node.kwargs), values.__getitem__)
            values[node] = node.target(*arguments, **named)  # pyright: ignore[reportCallIssue]
    return {n: value for n, value in values.items() if varying.intersection(n.users)}
