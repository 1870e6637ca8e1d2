"""The flags of a command, from its settings class."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from typing import Any, TypeVar, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec

from subscape._checks import is_worded, problem
from subscape.lowrank.layout import RankChoice
from subscape.training.config import TrainingConfig

Settings = TypeVar("Settings")
RANK = get_type_hints(TrainingConfig)["rank"]
REGISTRY = ConstructorRegistry()


def parsed(
    kind: type[Settings], command: str, arguments: Sequence[str], default: Settings | None = None
) -> Settings:
    """The settings that a command line gives."""
    box = io.StringIO()
    try:
        with redirect_stderr(box):
            return tyro.cli(
                kind,
                prog=f"subscape {command}",
                args=arguments,
                registry=REGISTRY,
                config=(tyro.conf.FlagCreatePairsOff,),
                default=tyro.MISSING_NONPROP if default is None else default,
            )
    except SystemExit as stopped:
        refusal = stopped.__context__ and stopped.__context__.__context__
        if refusal and is_worded(refusal):  # by a settings class, in one line like all others
            raise ValueError(*refusal.args) from None
        print(box.getvalue(), end="", file=sys.stderr)
        raise


@REGISTRY.primitive_rule
def _rank(info: Any) -> PrimitiveConstructorSpec[Any] | None:
    if info.type != RANK:
        return None
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar="2 | 0.1 | 4 8 | GLOB=RANK ...",
        instance_from_str=rank_of,
        is_instance=lambda value: isinstance(value, int | float | Sequence | Mapping),
        str_from_instance=_words,
    )


def rank_of(words: Sequence[str]) -> RankChoice | Mapping[str, RankChoice]:
    """`["2"]`, `["0.1"]`, `["4", "8"]` for modes, or `["*.weight=0.1", "*=4,8"]` by tensor."""
    if not any("=" in word for word in words):
        return _one(words)
    by_glob = [word.rpartition("=") for word in words]
    return {glob: _one(value.split(",")) for glob, _, value in by_glob}


def _one(words: Sequence[str]) -> RankChoice:
    try:
        if len(words) > 1:
            return tuple(int(word) for word in words)
        (word,) = words
        return int(word) if word.lstrip("-").isdigit() else float(word)
    except ValueError as error:
        expected = "a rank (2), a share (0.1), a rank per mode (4 8) or GLOB=RANK"
        raise ValueError(problem("rank", expected, " ".join(words) or "none")) from error


def _words(rank: Any) -> list[str]:
    if isinstance(rank, Mapping):
        return [f"{glob}={','.join(_words(value))}" for glob, value in rank.items()]
    return [str(mode) for mode in rank] if isinstance(rank, Sequence) else [str(rank)]
