"""Texts from files of text, JSON lines or Parquet, and from data sets of the Hugging Face Hub."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from subscape._checks import optional, problem, require
from subscape._io import read_text

HUB = "hf"
"""Prefix of a data set of the Hub."""
FIELD = "text"
"""Where a record's text stands; or else in its only field of text."""
SEPARATOR = "<|endoftext|>"
MOST = 20_000
"""Texts taken of a data set where no number is asked for."""
_NAME = re.compile(r"(?P<path>[^:\[\]]+?)(:(?P<split>[\w.-]+))?(\[(?P<first>\d*):(?P<last>\d+)\])?")


def is_texts(name: str) -> bool:
    """Whether data are texts, by their name."""
    return is_hub(name) or Path(name).suffix in (".txt", ".jsonl", ".parquet")


def is_hub(name: str) -> bool:
    """Whether data are `hf:org/set`."""
    return name.startswith(f"{HUB}:")


def is_pairs(name: str) -> bool:
    """Whether data are pairs of texts: JSON lines whose first one has no text of its own."""
    path = Path(name)
    if path.suffix != ".jsonl" or is_hub(name) or (":" in name and not path.exists()):
        return False
    _, first = next(lines_of(path), ("", {FIELD: ""}))
    return FIELD not in first and bool(first.keys() & {"a", "b"})


def texts_of(name: str, *, by_line: bool = False) -> Iterator[str]:
    """The texts of a file or a data set.

    A .txt is cut at its separators; without one, and if asked for, every line is a text.
    """
    if is_hub(name):
        return _fields(_records_of_hub(name), name)
    path = Path(name)
    check_there(path)
    match path.suffix:
        case ".jsonl":
            return _fields((line for _, line in lines_of(path)), name)
        case ".parquet":
            return _fields(_records_of_parquet(path), name)
        case _:
            text = read_text(path)
            cut = text.splitlines() if by_line and SEPARATOR not in text else text.split(SEPARATOR)
            return filter(None, map(str.strip, cut))


def check_there(path: Path, argument: str = "data") -> None:
    """Refuse a file that is not there."""
    require(path.is_file(), argument, "a file that exists", repr(str(path)), "Check the path.")


def lines_of(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The objects of a file of JSON lines, each with where it stands."""
    check_there(path)
    for number, line in enumerate(read_text(path).splitlines(), 1):
        where = f"{path} line {number}"
        try:
            record = msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise ValueError(problem(where, "a JSON object", repr(line[:60]))) from error
        yield where, record


def _fields(records: Iterable[Mapping[str, Any]], name: str) -> Iterator[str]:
    field = None
    for record in records:
        if field is None:
            of_text = [key for key, value in record.items() if isinstance(value, str)]
            field = FIELD if FIELD in of_text else of_text[0] if len(of_text) == 1 else None
            got = f"fields of text {of_text}, of {list(record)}"
            expected, repair = f"a field {FIELD!r}, or just one of text, in {name}", "Rename one."
            require(field is not None, "data", expected, got, repair)
        text = record.get(field or FIELD)
        require(isinstance(text, str), "data", f"a text as {field!r} everywhere", repr(text)[:60])
        yield str(text)


def _records_of_parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    parquet = optional("pyarrow.parquet", "for Parquet files", "'subscape[data]'")
    try:
        for batch in parquet.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    except (ValueError, OSError) as error:  # what pyarrow's own errors derive from
        got = f"{path} ({str(error).splitlines()[0]})"
        raise ValueError(problem("data", "a whole Parquet file", got)) from error


def _records_of_hub(name: str) -> Iterator[Mapping[str, Any]]:
    """Read record by record: only so much of a data set is fetched as is asked for."""
    match = _NAME.fullmatch(name.removeprefix(f"{HUB}:"))
    expected = "hf:org/set, hf:org/set:split or hf:org/set:split[:1000]"
    if match is None:
        raise ValueError(problem("data", expected, repr(name)))
    datasets = optional("datasets", f"for {name}", "'subscape[data]'")
    first = int(match["first"] or 0)
    last = int(match["last"] or first + MOST)
    try:
        split = match["split"] or "train"
        records = datasets.load_dataset(match["path"], split=split, streaming=True)
        yield from islice(records, first, last)
    except Exception as error:  # theirs are of many kinds
        got = f"{name!r} ({type(error).__name__}: {next(iter(str(error).splitlines()), '')})"
        repair = "Check the spelling and the connection."
        raise ValueError(problem("data", "a data set that can be had", got, repair)) from error
