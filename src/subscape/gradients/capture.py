"""Run the user's model once as it is and keep what chosen modules took in and gave out.

Hooks only: the model's own attention, masks, dtype and device map are used. Two hazards are met here:

- an in-place operation right behind a captured module would change the output whose gradient is wanted,
  so a copy is handed on;
- an in-place operation on a captured input is seen by its version counter, and refused.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from subscape._checks import require
from subscape._shapes import Int
from subscape.gradients.recurrent_calls import Recurrent, as_it_is, given_to, turns_of


@dataclass(frozen=True)
class Call:
    """One call of a module."""

    args: tuple[Any, ...]
    """Positional arguments."""
    kwargs: dict[str, Any]
    """Keyword arguments."""
    outputs: list[Tensor]
    """The floating-point tensors it gave, as places of the graph to differentiate at."""
    handed_on: list[Tensor]
    """What the model went on with: copies of them, or where nothing is differentiated themselves."""
    given_versions: list[int]
    """Version counters of what was handed on."""
    versions: list[int]
    """Version counters of its tensor inputs."""
    recurrent: Recurrent | None = None
    """Of a recurrent layer, what it was given with samples first."""

    def inputs(self) -> list[Any]:
        """The leaves of its arguments."""
        return tree_flatten((self.args, self.kwargs))[0]

    def first_input(self) -> Tensor:
        """The tensor that a rule is about."""
        if self.recurrent is not None:
            return self.recurrent.inputs
        return next(x for x in self.inputs() if isinstance(x, Tensor))

    def gave(self, outputs: Tensor) -> bool:
        """Whether the model's outputs are this call's, handed on untouched."""
        return any(
            y is outputs and y._version == version
            for y, version in zip(self.handed_on, self.given_versions, strict=True)
        )

    def check_untouched(self, name: str) -> None:
        """Refuse inputs that were changed in place after the call."""
        require(
            self.versions == [x._version for x in self.inputs() if isinstance(x, Tensor)],
            "model",
            f"inputs of {name!r} that stay as they are",
            "one that is changed in place later",
            "Use engine='vmap', or take the in-place operation out.",
            error=UnsafeModuleError,
        )


class UnsafeModuleError(ValueError):
    """A module whose row gradients cannot be had from its inputs and output gradients."""


Calls = dict[str, list[Call]]


@contextmanager
def captured(modules: Mapping[str, nn.Module], *, watch: bool = False) -> Generator[Calls]:
    """Keep every call of some modules while the block runs; where they are only watched, as they are."""
    calls: Calls = {name: [] for name in modules}
    with ExitStack() as stack:
        for name, module in modules.items():
            hook = partial(_keep, calls[name], watch)
            stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        yield calls


def _keep(
    calls: list[Call],
    watch: bool,
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: Any,
    output: Any,
) -> Any:
    """Forward hook: one more call; gives what the model goes on with."""
    leaves, form = tree_flatten(output)
    given, turns = None, None
    if isinstance(module, nn.RNNBase) and isinstance(output, tuple) and len(output) == 2:
        given = given_to(module, args, kwargs)
        turns = partial(turns_of, module, output)
    kept: list[Tensor] = []
    handed_on: list[Tensor] = []
    for place, leaf in enumerate(leaves):
        if not (isinstance(leaf, Tensor) and leaf.is_floating_point()):
            continue
        first, as_before = turns(place) if turns else (as_it_is, as_it_is)
        leaf = first(leaf)
        if not watch:
            if not leaf.requires_grad:
                leaf = leaf.detach().requires_grad_(True)
            leaves[place] = as_before(leaf).clone()
        kept.append(leaf)
        handed_on.append(leaves[place])
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
    given_on, taken = [[x._version for x in group] for group in (handed_on, tensors)]
    calls.append(Call(args, kwargs, kept, handed_on, given_on, taken, given))
    return None if watch else tree_unflatten(leaves, form)


@contextmanager
def positions_picked(
    head: nn.Module | None, position: Int[Tensor, " row"] | None
) -> Generator[None]:
    """Let a model's last module see the asked position of every sequence only: outputs are [row, 1, ...]."""
    if head is None or position is None:
        yield
        return
    handle = head.register_forward_pre_hook(partial(_pick, position))
    try:
        yield
    finally:
        handle.remove()


def _pick(
    position: Int[Tensor, " row"], module: nn.Module, args: tuple[Any, ...]
) -> tuple[Any, ...]:
    hidden, *others = args
    rows = torch.arange(len(hidden), device=hidden.device)
    return (hidden[rows, position.to(hidden.device)][:, None], *others)


@contextmanager
def frozen(model: nn.Module) -> Generator[None]:
    """No parameter asks for a gradient meanwhile: graphs start at the captured outputs only."""
    asked = [p for p in model.parameters() if p.requires_grad]
    for parameter in asked:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asked:
            parameter.requires_grad_(True)


def all_calls(calls: Calls) -> Iterator[tuple[str, Call]]:
    """Every call with its module's name."""
    return ((name, call) for name, of_module in calls.items() for call in of_module)
