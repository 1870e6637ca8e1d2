"""Records of an experiment: kept, shown as a table in a page, and drawn; and the command of all experiments.

An experiment is a file with a docstring (claim, command, minutes, what is expected) that gives `main` what it
measures: records, one per line of its table.
"""

import argparse
from ast import literal_eval
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import tables
import torch

from subscape._io import read_json, save_figure, write_json
from subscape.report.plotting import new_figure

Record = dict[str, Any]
Columns = Mapping[str, str]
"""Header to how a record is shown below it, as in `"{found} of {seeds}"`."""
Lines = Mapping[str, tuple[Sequence[float], Sequence[float]]]
"""What a picture shows: name to x and y."""


def kept(file: Path, make: Callable[[], Any]) -> Any:
    """A result from its file, or made and kept, so that a run that was stopped goes on."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, make())
    return read_json(file)


def slug(name: str) -> str:
    """A name as a part of a file's."""
    return "".join(c if c.isalnum() or c == "." else "-" for c in name)


def table(records: Sequence[Record], columns: Columns) -> str:
    """Records as a table of Markdown."""
    cells = ([form.format(**record) for form in columns.values()] for record in records)
    return tables.table(
        list(columns),
        [["" if cell.rstrip("%") == "nan" else cell for cell in line] for line in cells],
    )


def known(record: Record) -> Record:
    """Without what was not measured, which JSON has no number for."""
    return {key: value for key, value in record.items() if value == value}


def draw(
    path: Path, lines: Lines, *, x: str, y: str, log_x: bool = False, joined: bool = True
) -> None:
    """A picture of lines, or of points; their x may be names."""
    figure = new_figure((6.0, 3.6))
    axes = figure.subplots()
    for name, (at, values) in lines.items():
        axes.plot(at, values, "o-" if joined else "o", label=name, markersize=4)
    if log_x:
        axes.set_xscale("log")
    axes.set(xlabel=x, ylabel=y)
    axes.legend(fontsize=7)
    save_figure(figure, path)


def spread(values: Sequence[float]) -> str:
    """Mean, with the smallest and largest."""
    return f"{mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def main(
    name: str,
    doc: str | None,
    measure: Callable[..., list[Record]],
    columns: Columns,
    picture: Callable[[Path, list[Record]], None],
) -> None:
    """The command of an experiment."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs") / name, help="folder for results")
    parser.add_argument("--write", type=Path, help="page to put the table into")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="NAME=VALUE", help="other budgets: seeds=4"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    budgets = {k: literal_eval(v) for k, v in (each.split("=", 1) for each in arguments.set)}
    records = measure(arguments.out, **budgets)
    write_json(arguments.out / f"{name}.json", [known(record) for record in records])
    picture(arguments.out / f"{name}.png", records)
    text = table(records, columns)
    print(text)
    if arguments.write:
        tables.write_into(arguments.write, name, text)
