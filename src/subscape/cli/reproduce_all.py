"""`subscape reproduce all`: every table of the page of reproductions, several commands at once."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from hashlib import sha256
from pathlib import Path
from typing import Any

from subscape._checks import require
from subscape._io import json_object, write_json, write_text
from subscape._lock import locked
from subscape._markdown import put_into
from subscape._progress import bar
from subscape.reproduce.every import TABLES

OfCommand = Callable[[str, Mapping[str, int]], dict[str, Any]]
"""From the words of a command, and what a smaller version has less of, to its results."""


def run_all(
    out: Path, jobs: int, page: Path | None, small: Mapping[str, int], of_command: OfCommand
) -> dict[str, Any]:
    """Carry out the command; what is in `out` already is kept, so that a run that was stopped goes on."""
    require(jobs >= 1, "jobs", "at least 1", jobs)
    if page is not None:
        text = _text_of(page)
        for name in TABLES:  # a page without marks is found before hours of work
            put_into(text, name, "")
    commands = list(dict.fromkeys(line.command for t in TABLES.values() for line in t.lines))
    files = {command: _file(out, command, small) for command in commands}
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        missing = [command for command, file in files.items() if not _is_results(file)]
        _make(missing, files, jobs, small, of_command)
    results = {command: json_object(file) for command, file in files.items()}
    tables = {name: table.markdown(results) for name, table in TABLES.items()}
    for name, table in tables.items():
        print(f"\n{name}\n{table}")
    if page is not None:
        text = _text_of(page)
        for name, table in tables.items():
            text = put_into(text, name, table)
        write_text(page, text)
        print(f"\nWritten into {page}")
    return {"tables": tables}


def _make(
    commands: list[str],
    files: Mapping[str, Path],
    jobs: int,
    small: Mapping[str, int],
    of_command: OfCommand,
) -> None:
    if not commands:
        return
    # Not forked: threads of torch do not survive that.
    spawn = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(min(jobs, len(commands)), mp_context=spawn) as pool,
        bar("reproduce", total=len(commands), unit="command") as shown,
    ):
        running = {pool.submit(of_command, command, small): command for command in commands}
        try:
            for done in as_completed(running):
                command = running[done]
                write_json(files[command], done.result() | {"command": command})
                shown.update()
                shown.write(f"{done.result()['summary']['fvu']['mean']:.3f}  {command}")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _file(out: Path, command: str, small: Mapping[str, int]) -> Path:
    """Where the results of a command lie; those of a smaller version elsewhere."""
    digest = sha256(f"{command} {sorted(small.items())}".encode()).hexdigest()[:8]
    return out / f"{command.split()[0]}-{digest}.json"


def _is_results(path: Path) -> bool:
    return path.exists() and json_object(path).keys() >= {"name", "runs", "summary"}


def _text_of(page: Path) -> str:
    require(page.is_file(), "write", "a page that exists", str(page), "Check the path.")
    return page.read_text(encoding="utf-8")
