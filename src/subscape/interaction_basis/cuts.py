"""A chain from any model, cut behind modules that are named.

The model is exported once, for one sample, to a graph of tensor operations. A cut lies behind the operation
that gives a module's output; its node layer is all that is computed before it and used after it, so that a
residual stream or a second branch is carried along without being named. Sections run their part of the
graph, one sample at a time under `vmap`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from subscape._checks import is_worded, nearest, out_of_memory, problem, require
from subscape.interaction_basis.chain import Chain, check_chain, require_agreement
from subscape.interaction_basis.traced import Layout, Traced

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
    traced = Traced(_exported(model, cuts, inputs[:1], outputs), cuts, layout)
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
