"""Run configurations as TOML: read by the standard library, written here, checked against fields."""

from __future__ import annotations

import builtins
import collections.abc
import json
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from subscape._checks import nearest, problem


def read(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Args:
        path: the file.

    Returns:
        Its tables.

    Raises:
        ValueError: if it is missing or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(problem("config", "a TOML file that exists", str(path), "")) from error
    except tomllib.TOMLDecodeError as error:
        raise ValueError(problem("config", f"TOML in {path}", str(error), "")) from error


def dumps(table: Mapping[str, Any], path: str = "") -> str:
    """Write a table; None is left out, nested mappings become tables at the end.

    Args:
        table: strings, numbers, truth values, lists, mappings.
        path: dotted name of the table within the file.

    Returns:
        TOML.
    """
    plain = [
        f"{_key(k)} = {_value(v)}\n"
        for k, v in table.items()
        if v is not None and not isinstance(v, Mapping)
    ]
    nested = []
    for key, value in table.items():
        if isinstance(value, Mapping):
            name = f"{path}.{_key(key)}" if path else _key(key)
            nested.append(f"\n[{name}]\n{dumps(value, name)}")
    return "".join(plain + nested)


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() else json.dumps(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(v) for v in value) + "]"
    # A JSON string is a TOML basic string.
    return json.dumps(str(value), ensure_ascii=False)


def build(kind: type, table: Mapping[str, Any], where: str) -> Any:
    """Make the dataclass `kind` of a table, nested ones too; unknown keys and wrong types are refused.

    Args:
        kind: a dataclass with defaults.
        table: its fields' values.
        where: what to call the table in an error.

    Returns:
        The instance.

    Raises:
        ValueError: if a key is not a field, or its value is of another type.
    """
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in hints:
            inner = [k for k, h in hints.items() if is_dataclass(h) and key in get_type_hints(h)]
            repair = f"It belongs in the table [{inner[0]}]." if inner else nearest(key, hints)
            raise ValueError(problem(where, f"settings among {list(hints)}", repr(key), repair))
        hint = hints[key]
        if is_dataclass(hint) and isinstance(value, Mapping):
            values[key] = build(hint, value, f"{where} [{key}]")  # pyright: ignore[reportArgumentType]
            continue
        if not _fits(value, hint):
            raise ValueError(problem(f"{where}: {key}", _words(hint), repr(value)))
        if hint is Path:
            value = Path(value)
        values[key] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


PLAIN: dict[Any, tuple[tuple[type, ...], str]] = {
    str: ((str,), "a string"),
    Path: ((str,), "a string"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    bool: ((bool,), "true or false"),
    type(None): ((type(None),), "nothing"),
}
"""Types of fields that a value of TOML can have, and their names."""


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of TOML can be of a field's type."""
    match get_origin(hint), get_args(hint):
        case (typing.Literal, choices):
            return value in choices
        case (typing.Union | types.UnionType, choices):
            return any(_fits(value, choice) for choice in choices)
        case (builtins.tuple | collections.abc.Sequence, (item, *_)):
            return isinstance(value, list) and all(_fits(v, item) for v in value)
        case (None, _):
            # In Python a truth value is a whole number.
            kinds = PLAIN[hint][0] if hint in PLAIN else ()
            return isinstance(value, kinds) and (hint is bool or not isinstance(value, bool))
        case _:
            return isinstance(value, Mapping)


def _words(hint: Any) -> str:
    match get_origin(hint), get_args(hint):
        case (typing.Literal, choices):
            return f"one of {list(choices)}"
        case (typing.Union | types.UnionType, choices):
            words = [_words(c) for c in choices if c is not type(None)]
            return " or ".join(dict.fromkeys(words))
        case (builtins.tuple | collections.abc.Sequence, (item, *_)):
            return f"a list, each {_words(item)}"
        case (None, _) if hint in PLAIN:
            return PLAIN[hint][1]
        case _:
            return "a table"
