"""Settings as TOML files: read, checked against the fields of a settings class, and written."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec
import tomli_w

from subscape._checks import nearest, problem
from subscape._io import regular

T = TypeVar("T")
WORDS = {
    "str": "a string",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
}
"""Types by msgspec's names, in words."""


def read(path: Path) -> dict[str, Any]:
    """The tables of a TOML file; refuses one that is missing or is no TOML."""
    try:
        return msgspec.toml.decode(regular(path).read_bytes())
    except FileNotFoundError as error:
        raise ValueError(problem("config", "a TOML file that exists", str(path))) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(problem(str(path), "a TOML file", str(error))) from error


def dumps(settings: Any, leave_out: tuple[str, ...] = ()) -> str:
    """Settings as TOML; what has no value is left out, as are some fields."""
    table = msgspec.to_builtins(settings, enc_hook=str)
    return tomli_w.dumps(_given({k: v for k, v in table.items() if k not in leave_out}))


def _given(table: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _given(value) if isinstance(value, Mapping) else value
        for key, value in table.items()
        if value is not None
    }


def build(kind: type[T], table: Mapping[str, Any], where: str) -> T:
    """The settings of a table; an unknown key or a wrong type is refused by the file's and the key's name."""
    _check_keys(kind, table, where)
    try:
        return msgspec.convert(table, kind, strict=True, dec_hook=_path)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$")
        key = place.strip(".`")
        if wrong := re.fullmatch(r"Expected `(.+)`, got `(.+)`", message):
            expected, got = (
                " or ".join(WORDS.get(w, w) for w in words.split(" | ") if w != "null")
                for words in wrong.groups()
            )
            message = problem(key, expected, got)
        elif message.startswith("Invalid enum value"):
            message = problem(key, f"one of {_choices(kind, key)}", message.split(" ")[-1])
        raise ValueError(f"{where}: {message}") from None


def _path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise TypeError(f"Expected `str`, got `{type(value).__name__}`")


def _check_keys(kind: type, table: Mapping[str, Any], where: str) -> None:
    hints = get_type_hints(kind)
    for key, value in table.items():
        if key not in hints:
            inner = [k for k, h in hints.items() if is_dataclass(h) and key in get_type_hints(h)]
            repair = f"It belongs in the table [{inner[0]}]." if inner else nearest(key, hints)
            raise ValueError(problem(where, f"settings among {list(hints)}", repr(key), repair))
        if is_dataclass(hints[key]) and isinstance(value, Mapping):
            _check_keys(typing.cast(type, hints[key]), value, f"{where}: [{key}]")


def _choices(kind: Any, key: str) -> list[str]:
    """What a field that is a choice may be."""
    for name in key.split("."):
        kind = get_type_hints(kind)[name]

    def flat(hint: Any) -> Iterator[str]:
        for part in get_args(hint):
            yield from [part] if get_origin(hint) is Literal else flat(part)

    return list(flat(kind))
