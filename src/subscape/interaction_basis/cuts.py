"""A chain from any model, cut behind modules that are named.

The model is exported once, for one sample, to a graph of tensor operations. A cut lies behind the operation
that gives a module's output; its node layer is all that is computed before it and used after it, so that a
residual stream or a second branch is carried along without being named. Sections run their part of the
graph, one sample at a time under `vmap`.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node, map_arg

from subscape._checks import is_worded, nearest, out_of_memory, problem, require
from subscape.interaction_basis.batched import BATCHED
from subscape.interaction_basis.chain import Chain, Section, check_chain, require_agreement

Layout = Literal["channel", "flat"]
"""Of an image in a node layer: every place is a position, its channels the width; or all numbers are the width."""
INPUT, OUTPUT = "input", "output"
"""Names of the cuts in front of the model and behind it."""
N_CHECKED = 8
"""Samples on which the chain is compared with the model."""
Outputs = Callable[[Any, Any], Tensor]
"""(model, inputs) -> outputs."""


def main_output(model: Any, inputs: Any) -> Tensor:
    """The model's outputs: the tensor it returns, or the logits, the last hidden state, the first of a tuple."""
    return _main(model(inputs))


def _main(result: Any) -> Tensor:
    for name in ("logits", "last_hidden_state"):
        if getattr(result, name, None) is not None:
            return getattr(result, name)
    return result[0] if isinstance(result, tuple | list) else result


def chain_from(
    model: nn.Module,
    cuts: Sequence[str],
    inputs: Tensor,
    *,
    layout: Layout = "channel",
    outputs: Outputs = main_output,
) -> Chain:
    """Cut any model behind named modules; the chain is compared with the model before it is returned.

    Args:
        model: a module in eval mode that takes one tensor, samples first.
        cuts: at least two names as `model.named_modules()` gives them, or `input` and `output` for the
            model's own, in any order.
        inputs: data as the model takes it; the first sample is exported, some are compared.
        layout: how an image lies in a node layer. By channel it needs few directions, and `flat` tells
            places apart.
        outputs: what the model's outputs are, from (model, inputs).

    Raises:
        ValueError: if a name is not there, the model cannot be exported, something other than floating-point
            numbers crosses a cut, or the sections do not give the model's outputs.
    """
    return chains_from(model, cuts, inputs, layout=layout, outputs=outputs)({})


def chains_from(
    model: nn.Module,
    cuts: Sequence[str],
    inputs: Tensor,
    *,
    layout: Layout = "channel",
    outputs: Outputs = main_output,
) -> Callable[[Mapping[str, Tensor]], Chain]:
    """The chain of a model as a function of its weights, of those that are to be others; see `chain_from`."""
    require(not model.training, "model", "a model in eval mode", "one in training mode")
    require(len(inputs) > 0, "inputs", "at least one sample", "none")
    require(layout in get_args(Layout), "layout", f"one of {get_args(Layout)}", repr(layout))
    require(len(set(cuts)) == len(cuts) >= 2, "cuts", "two names or more that differ", str(cuts))
    known = dict(model.named_modules())
    for name in cuts:
        there = name in known or name in (INPUT, OUTPUT)
        expected = "names of modules, as model.named_modules() gives them, input or output"
        require(there and name != "", "cuts", expected, repr(name), nearest(name, known))
    names = _names(model)
    traced = _Traced(_exported(model, cuts, inputs[:1], outputs), cuts, layout)
    chain = traced.chain({})
    check_chain(chain, inputs)
    some = inputs[:N_CHECKED]
    with torch.no_grad():
        require_agreement(chain, outputs(model, some), some)

    def chain_of(weights: Mapping[str, Tensor]) -> Chain:
        for name in weights:
            require(
                name in names, "weights", "names of parameters", repr(name), nearest(name, names)
            )
        return traced.chain({other: w for name, w in weights.items() for other in names[name]})

    return chain_of


def _names(model: nn.Module) -> dict[str, list[str]]:
    """By the name of a parameter all names that the exported graph may have for it."""
    everything = dict(model.named_parameters(remove_duplicate=False))
    return {
        name: [f"model.{other}" for other, p in everything.items() if p is parameter]
        for name, parameter in everything.items()
    }


class _Marked(nn.Module):
    """A model that returns what the named modules gave beside its own output."""

    def __init__(self, model: nn.Module, cuts: Sequence[str], outputs: Outputs) -> None:
        super().__init__()
        self.model, self.cuts, self.outputs = model, cuts, outputs

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        seen: dict[str, list[Tensor]] = {INPUT: [inputs]}

        def keep(name: str, result: Any) -> None:
            seen.setdefault(name, []).append(_main(result))

        inside = [name for name in self.cuts if name not in (INPUT, OUTPUT)]
        handles = [
            self.model.get_submodule(name).register_forward_hook(
                lambda module, given, result, name=name: keep(name, result)
            )
            for name in inside
        ]
        try:
            out = self.outputs(self.model, inputs)
        finally:
            for handle in handles:
                handle.remove()
        seen[OUTPUT] = [out]
        for name in inside:
            times = len(seen.get(name, []))
            require(
                times == 1,
                "cuts",
                "modules that run once in a forward pass",
                f"{name!r}, which runs {times} times",
                "Cut behind the module that holds it.",
            )
        return (out, *(seen[name][0] for name in self.cuts))


def _exported(
    model: nn.Module, cuts: Sequence[str], sample: Tensor, outputs: Outputs
) -> GraphModule:
    config = getattr(model, "config", None)
    cache = getattr(config, "use_cache", None)
    try:
        if cache:
            # A cache is an output too, of a type that cannot be exported.
            config.use_cache = False  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
        with warnings.catch_warnings(), torch.no_grad():
            # Of torch and transformers about their own code; nothing that the caller can change.
            warnings.simplefilter("ignore")
            marked = _Marked(model, cuts, outputs).eval()
            program = torch.export.export(marked, (sample,), strict=False)
            # Without operations in place, so that what a cut holds stays as it is.
            return program.run_decompositions({}).module()  # pyright: ignore[reportReturnType]
    except Exception as error:  # export raises a dozen kinds
        if out_of_memory(error) or is_worded(error):
            raise
        first = str(error).strip().splitlines()
        raise ValueError(
            problem(
                "model",
                "one that torch.export can trace",
                f"{type(error).__name__}: {first[0] if first else ''}",
                "Code that depends on values cannot be: write its sections yourself and pass "
                "Chain(names, sections).",
            )
        ) from error
    finally:
        if cache:
            config.use_cache = cache  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]


@dataclass(frozen=True)
class _Cut:
    """Where a cut lies in the graph and how its tensors are put side by side."""

    name: str
    behind: int
    """Number of operations before it."""
    nodes: tuple[Node, ...]
    layout: Layout

    def pack(self, values: dict[Node, Any]) -> Tensor:
        return torch.cat([_rows(values[node][0], self.layout) for node in self.nodes], -1)

    def unpack(self, packed: Tensor) -> dict[Node, Tensor]:
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


class _Traced:
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

    def _cut(self, name: str, mark: Node, place: dict[Node, int]) -> _Cut:
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
        return _Cut(name, at + 1, tuple(live), self.layout)

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
