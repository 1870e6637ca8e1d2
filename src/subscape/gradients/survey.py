"""A survey of the model: where the chosen parameters live, and how the modules there are called.

It decides which engines can make the row gradients of a tensor, in the order of preference: the rule of
the module that owns it; a replay of that module, then of the modules around it; vmap over the whole model;
the loop. `plan` tries them out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import Tensor, nn

from subscape._checks import nearest, require
from subscape.data import Samples, take
from subscape.gradients.capture import Call, Calls, UnsafeModuleError, all_calls, captured, frozen
from subscape.gradients.probe import check_rows_alone, probed_outputs, unchanged_buffers
from subscape.gradients.rules import rule_of
from subscape.rows import RowKind
from subscape.targets import Target

TensorEngine = Literal["rule", "replay", "vmap", "loop"]
ENGINES: tuple[TensorEngine, ...] = ("rule", "replay", "vmap", "loop")
"""In the order in which they are tried."""


@dataclass(frozen=True)
class Choice:
    """How the row gradients of one tensor are made."""

    engine: TensorEngine
    """Kind of engine."""
    module: str
    """Name of the module that is captured (rule, replay); empty for the whole model."""
    error: float = 0.0
    """Largest relative error against the loop on the rows it was tried on."""
    passed_over: tuple[str, ...] = ()
    """Engines tried before, and why they were not taken."""


@dataclass(frozen=True)
class Survey:
    """Where a target's parameters live and which modules of the model are called how."""

    owners: Mapping[str, tuple[tuple[str, str], ...]]
    """Parameter name → (module, local name) for every name it goes by."""
    n_calls: Mapping[str, int]
    """Calls of every owner, and of every module around one, in one forward pass."""
    batched: Mapping[str, list[list[bool | None]]]
    """Module → for every call, which leaves of its arguments have a sample axis first; None for no tensor."""
    rowwise: Mapping[str, bool]
    """Module → whether its outputs and its first input have a sample axis first."""
    head: str | None
    """The linear module whose output is the model's output, position by position."""
    outputs: Tensor
    """f(x) of three samples, with their graph."""
    leaves: Mapping[str, Tensor]
    """The parameters that this graph starts at."""

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of one sample's output."""
        return tuple(self.outputs.shape[1:])

    def without_graph(self) -> Survey:
        """The same, holding no activations."""
        return replace(self, outputs=self.outputs.detach(), leaves={})


def survey(target: Target, inputs: Samples, kind: RowKind) -> Survey:
    """Run the model on two and on three samples and see which modules are called with what."""
    owners = _owners(target)
    modules = dict(target.model.named_modules())  # each under its first name only
    around = {
        name: modules[name]
        for of_tensor in owners.values()
        for owner, _ in of_tensor
        for name in (owner, *_ancestors(owner))
    }
    linear = {name: m for name, m in modules.items() if isinstance(m, nn.Linear) and name}
    leaves = {
        name: p.detach().clone().requires_grad_(True) for name, p in target.parameters.items()
    }
    with unchanged_buffers(target.model):
        with frozen(target.model), captured(around | linear, watch=True) as few:
            first = probed_outputs(target, take(inputs, slice(0, 2)), kind)
        with (
            frozen(target.model),
            captured(around | linear, watch=True) as many,
            torch.enable_grad(),
        ):
            outputs = target.outputs(take(inputs, slice(0, 3)), leaves)
    check_rows_alone(target, inputs, first, outputs)
    n_calls = {name: len(many[name]) for name in around}
    batched = {
        name: [_batched(a, b) for a, b in zip(few[name], many[name], strict=False)]
        for name in around
    }
    rowwise = {
        name: len(few[name]) == len(many[name])
        and all(_first_axis(c) == 2 for c in few[name])
        and all(_first_axis(c) == 3 for c in many[name])
        and all(
            call.recurrent is not None or True in leaves
            for call, leaves in zip(few[name], batched[name], strict=True)
        )
        for name in around
    }
    head = _head(linear, many, outputs)
    return Survey(owners, n_calls, batched, rowwise, head, outputs, leaves)


def candidates(found: Survey, name: str, model: nn.Module) -> Iterator[tuple[Choice, str]]:
    """The engines for a tensor in the order of preference, each with a reason if it cannot be (or none)."""
    owners = found.owners[name]
    first, reason = owners[0][0], ""
    for owner, _ in owners:
        module = model.get_submodule(owner)
        if rule_of(module) is None:
            reason = f"no rule for {type(module).__name__}"
        elif found.n_calls[owner] == 0:
            reason = f"{owner} is never called: its weight is used from outside"
        elif not found.rowwise[owner]:
            reason = f"the inputs of {owner} have no sample axis first (flattened or shared)"
    yield Choice("rule", first), reason
    for around in _common([(owner, *_ancestors(owner)) for owner, _ in owners]):
        if not around:
            continue
        if found.n_calls[around] == 0:
            yield Choice("replay", around), f"{around} is never called"
        elif not found.rowwise[around]:
            yield Choice("replay", around), f"the outputs of {around} have no sample axis first"
        else:
            yield Choice("replay", around), ""
    yield Choice("vmap", ""), ""
    yield Choice("loop", ""), ""


def forced(names: list[str], engine: str | Mapping[str, str]) -> dict[str, TensorEngine | None]:
    """What the user asked for, tensor by tensor; None leaves the choice free."""
    by_glob = {"*": engine} if isinstance(engine, str) else dict(engine)
    for pattern, wanted in by_glob.items():
        require(
            wanted != "jacobian",
            "engine",
            "'auto', 'rule', 'replay', 'vmap' or 'loop' for single tensors",
            "'jacobian', which is for all of them",
            "Use engine='jacobian'.",
        )
        require(
            wanted in ("auto", *ENGINES),
            "engine",
            "'auto', 'jacobian', 'rule', 'replay', 'vmap' or 'loop'",
            repr(wanted),
            nearest(str(wanted), ("auto", "jacobian", *ENGINES)),
        )
        require(
            any(fnmatchcase(name, pattern) for name in names),
            "engine",
            f"globs over the parameters {names}",
            repr(pattern),
        )
    chosen: dict[str, TensorEngine | None] = {}
    for name in names:
        wanted = next((e for p, e in by_glob.items() if fnmatchcase(name, p)), "auto")
        chosen[name] = None if wanted == "auto" else wanted  # pyright: ignore[reportArgumentType]
    return chosen


def _owners(target: Target) -> dict[str, tuple[tuple[str, str], ...]]:
    every = dict(target.model.named_parameters(remove_duplicate=False))
    names: dict[int, list[str]] = {}
    for name, parameter in every.items():
        names.setdefault(id(parameter), []).append(name)
    first = {id(module): name for name, module in reversed([*target.model.named_modules()])}
    owners: dict[str, tuple[tuple[str, str], ...]] = {}
    for name in target.names:
        places = [n.rpartition(".") for n in names[id(every[name])]]
        # A module that has two names is captured under its first.
        places = [(first[id(target.model.get_submodule(m))], local) for m, _, local in places]
        owners[name] = tuple(dict.fromkeys(places))
    return owners


def _ancestors(name: str) -> list[str]:
    """Names of the modules around a module, from the inside out, the model ('') last."""
    parts = name.split(".") if name else []
    return [".".join(parts[:n]) for n in range(len(parts) - 1, -1, -1)]


def _common(paths: list[tuple[str, ...]]) -> list[str]:
    return [name for name in paths[0] if all(name in path for path in paths)]


def _batched(few: Call, many: Call) -> list[bool | None]:
    """Leaves whose first axis went from 2 to 3 with the samples."""
    pairs = zip(few.inputs(), many.inputs(), strict=False)
    return [
        a.dim() > 0 and (len(a), len(b)) == (2, 3)
        if isinstance(a, Tensor) and isinstance(b, Tensor)
        else None
        for a, b in pairs
    ]


def _first_axis(call: Call) -> int | None:
    """The common first axis of the outputs, None if there is none."""
    sizes = {len(y) if y.dim() else 0 for y in call.outputs}
    return sizes.pop() if len(sizes) == 1 else None


def _head(
    linear: Mapping[str, nn.Module], calls: Mapping[str, list[Call]], outputs: Tensor
) -> str | None:
    """The module called once, position by position, whose output is handed on as the model's."""
    if outputs.dim() != 3:
        return None
    for name in linear:
        if len(calls[name]) != 1:
            continue
        (call,) = calls[name]
        given = [x for x in call.inputs() if isinstance(x, Tensor)]
        positional = bool(call.args) and call.args[0] is given[0]
        if call.gave(outputs) and positional and given[0].shape[:2] == outputs.shape[:2]:
            return name
    return None


def check_calls(calls: Calls, n: int) -> None:
    """Refuse modules that were not called, or not on whole samples, or whose inputs changed later."""
    for name, of_module in calls.items():
        require(
            bool(of_module),
            "engine",
            f"a model that calls {name!r}",
            "no call, so its weights are used from outside",
            "Use engine='auto' or 'vmap'.",
            error=UnsafeModuleError,
        )
    for name, call in all_calls(calls):
        call.check_untouched(name)
        require(
            _first_axis(call) == n,
            "engine",
            f"outputs of {name!r} with one entry per sample first ({n})",
            f"shapes {[list(y.shape) for y in call.outputs]}",
            "Use engine='auto', or 'replay' or 'vmap' for its parameters.",
            error=UnsafeModuleError,
        )
