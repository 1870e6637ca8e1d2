"""Which rule gives the row gradients of which module type.

A rule is a function `(module, inputs, output_gradient) -> {local parameter name: TensorGradient}` with the
input of one call of the module [row, ...] and ∂D/∂output of that call [row, ...]. That of a recurrent layer takes
∂D/∂ all its outputs, its first states, and the lengths of packed sequences.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from subscape.gradients.tensor_gradients import TensorGradient

Rule = Callable[..., dict[str, TensorGradient]]

_RULES: dict[type[nn.Module] | str, tuple[Rule, Callable[[Any], bool], bool]] = {}


def register_rule(
    *types: type[nn.Module] | str,
    when: Callable[[Any], bool] = lambda module: True,
    any_forward: bool = False,
) -> Callable[[Rule], Rule]:
    """Make a function the rule of module types; decorator.

    A rule holds for the types and for subclasses that keep their `forward`; with `any_forward` it is tried for all
    subclasses.

    Args:
        *types: module types, or their full names where importing them is not wanted.
        when: says of a module whether the rule holds for it, by its settings.
        any_forward: whether it can be right for subclasses with another `forward`.

    Returns:
        The decorator, which hands the function on as it is.
    """

    def register(rule: Rule) -> Rule:
        for kind in types:
            _RULES[kind] = rule, when, any_forward
        return rule

    return register


def rule_of(module: nn.Module) -> Rule | None:
    """The rule of a module, or None."""
    for kind in type(module).__mro__:
        found = _RULES.get(kind) or _RULES.get(f"{kind.__module__}.{kind.__qualname__}")
        if found is not None:
            rule, when, any_forward = found
            same = type(module).forward is getattr(kind, "forward", None)
            return rule if (same or any_forward) and when(module) else None
    return None
