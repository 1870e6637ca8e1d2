"""Run configurations as TOML: read by the standard library, written here, checked against fields."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

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
    """Make the dataclass `kind` of a table, nested ones too; unknown keys are refused.

    Args:
        kind: a dataclass with defaults.
        table: its fields' values.
        where: what to call the table in an error.

    Returns:
        The instance.

    Raises:
        ValueError: if a key is not a field.
    """
    known = {f.name: f for f in fields(kind)}
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            raise ValueError(
                problem(where, f"settings among {list(known)}", repr(key), nearest(key, known))
            )
        default = known[key].default_factory
        if is_dataclass(default) and isinstance(value, Mapping):
            values[key] = build(default, value, f"{where} [{key}]")  # pyright: ignore[reportArgumentType]
        else:
            values[key] = tuple(value) if isinstance(value, list) else value
    return kind(**values)
