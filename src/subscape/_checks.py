"""Argument errors at the public door, all worded alike.

    rank: expected a whole number of at least 1; got 0. Use rank=1 for the smallest subnetworks.

A check states the argument, what was expected, what came and, where it is not obvious, how to
repair it. What our own code guarantees is an `assert`, not a check.
"""

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from difflib import get_close_matches
from typing import Any, TypeVar

Config = TypeVar("Config")


class Problem(str):
    """The message of an argument error, to be told from those of other packages and of the user's code."""


def is_worded(error: BaseException) -> bool:
    """Whether an error is one of ours, which says best itself what is wrong."""
    return bool(error.args) and isinstance(error.args[0], Problem)


def problem(argument: str, expected: str, got: object, repair: str = "") -> Problem:
    """Word one argument error.

    Args:
        argument: The name of the argument as the caller knows it.
        expected: What would have been right, as a phrase without a full stop.
        got: What came; a string is taken as a description, anything else is shown by its repr.
        repair: A sentence that says how to repair it.

    Returns:
        The message.
    """
    shown = got if isinstance(got, str) else repr(got)
    return Problem(f"{argument}: expected {expected}; got {shown}. {repair}".rstrip())


def require(
    condition: bool,
    argument: str,
    expected: str,
    got: object,
    repair: str = "",
    *,
    error: type[Exception] = ValueError,
) -> None:
    """Raise unless the condition holds; the other arguments are those of `problem`.

    Args:
        condition: What must hold.
        argument: The name of the argument as the caller knows it.
        expected: What would have been right, as a phrase without a full stop.
        got: What came; a string is taken as a description, anything else is shown by its repr.
        repair: A sentence that says how to repair it.
        error: The type of exception to raise.

    Raises:
        error: If the condition does not hold.
    """
    if not condition:
        raise error(problem(argument, expected, got, repair))


def nearest(name: str, names: Iterable[str]) -> str:
    """Point out the known name that an unknown one was probably meant to be.

    Args:
        name: What the caller asked for.
        names: The names that exist.

    Returns:
        The repair as a sentence, empty when no name is near.
    """
    # Compared without case, as `MSE` for `mse` is the commonest slip.
    by_folded = {known.casefold(): known for known in names}
    matches = get_close_matches(name.casefold(), by_folded, n=1)
    return f"Did you mean {by_folded[matches[0]]!r}?" if matches else ""


def with_settings(config: Config, settings: Mapping[str, Any]) -> Config:
    """A settings dataclass with some of its fields changed; refuses unknown ones."""
    known = [f.name for f in fields(config)]  # pyright: ignore[reportArgumentType]
    for name in settings:
        expected = f"a setting, one of {known}"
        require(name in known, name, expected, "an unknown one", nearest(name, known))
    return replace(config, **settings)  # pyright: ignore[reportArgumentType]


def out_of_memory(error: BaseException) -> bool:
    """Whether it says that memory is used up: nothing else is to be tried then, and nothing to be blamed."""
    # By name, as torch is not loaded for this.
    named = type(error).__name__ in ("OutOfMemoryError", "MemoryError", "_ArrayMemoryError")
    return named or "allocate memory" in str(error)


def optional(module: str, purpose: str, install: str) -> Any:
    """Import what not everybody has installed.

    Args:
        module: Its dotted name.
        purpose: What it is needed for, as a phrase such as "for pictures".
        install: What to give to pip.

    Returns:
        The module.

    Raises:
        ImportError: If it is not there.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        repair = f"Install it: pip install {install}."
        raise ImportError(
            problem(package, f"to be installed, {purpose}", "no such package", repair)
        ) from error
