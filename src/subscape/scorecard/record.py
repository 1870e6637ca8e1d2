"""The scorecard: tables of numbers, each beside its controls, in a form that prints, saves and loads."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from subscape._checks import problem, require
from subscape._html import table
from subscape._io import json_object, regular, write_json
from subscape.measures.record import identity_of, number
from subscape.scorecard.config import SECTIONS, ScoreConfig
from subscape.subnetworks.decomposition import Decomposition

FORMAT = "subscape-scorecard/1"
FOLDER, NAME = "scorecard", "scorecard.json"
AGAIN = "Evaluate again: subscape evaluate RUN --overwrite."


@dataclass(frozen=True)
class Column:
    """One figure."""

    name: str
    """In words."""
    better: Literal["high", "low", ""] = ""
    """Which way is better."""
    percent: bool = False
    """Whether it is a share, to be shown in percent."""


@dataclass(frozen=True)
class Line:
    """The figures of subnetworks or of a control."""

    name: str
    """Of what."""
    values: tuple[float | None, ...]
    """One a column; None where there is none."""
    ours: bool = False
    """Whether it is the subnetworks' own, not a control."""


@dataclass(frozen=True)
class Section:
    """One question, its figures and their controls."""

    key: str
    """Short name."""
    title: str
    """The question."""
    columns: tuple[Column, ...] = ()
    """The figures."""
    lines: tuple[Line, ...] = ()
    """The subnetworks and their controls."""
    notes: tuple[str, ...] = ()
    """What is to be known of them."""
    left_out: str | None = None
    """Why it was not made; None if it was."""
    seconds: float = 0.0
    """Processor time."""

    def __post_init__(self) -> None:
        for line in self.lines:
            n, want = len(line.values), len(self.columns)
            require(n == want, f"{self.key}: {line.name}", f"{want} figures", n)

    def value(self, line: str, column: str) -> float | None:
        """One figure; KeyError if there is none of these names."""
        names = [c.name for c in self.columns]
        for one in self.lines:
            if one.name == line and column in names:
                return one.values[names.index(column)]
        raise KeyError(f"{line}, {column}: not among {[e.name for e in self.lines]}, {names}")

    def __str__(self) -> str:
        if self.left_out is not None:
            return f"{self.title}\n  left out: {self.left_out}"
        cells = [
            [shown(v, c) for v, c in zip(e.values, self.columns, strict=True)] for e in self.lines
        ]
        heads = [head(c) for c in self.columns]
        wide = [max(len(h), *(len(row[i]) for row in cells)) for i, h in enumerate(heads)]
        first = max((len(e.name) for e in self.lines), default=0) + 2
        rows = [
            ("", heads),
            *(
                (f"{'*' * e.ours or ' '} {e.name}", c)
                for e, c in zip(self.lines, cells, strict=True)
            ),
        ]
        text = [
            f"  {name:<{first}}" + "".join(f"  {c:>{w}}" for c, w in zip(row, wide, strict=True))
            for name, row in rows
        ]
        return "\n".join([self.title, *text, *map(_wrapped, self.notes)])


def _wrapped(note: str) -> str:
    return textwrap.fill(note, 100, initial_indent="    ", subsequent_indent="    ")


def head(column: Column) -> str:
    """A column's name with the way that is better."""
    return column.name + {"high": " ↑", "low": " ↓", "": ""}[column.better]


def shown(value: float | None, column: Column) -> str:
    """A figure as text."""
    if value is None:
        return "–"
    return f"{value:.1%}" if column.percent else f"{value:.3g}"


def line(name: str, *values: float | None, ours: bool = False) -> Line:
    """A line with figures as the record has them."""
    return Line(name, tuple(None if v is None else number(float(v)) for v in values), ours)


@dataclass(frozen=True, repr=False)
class Scorecard:
    """Every figure of a decomposition beside its controls."""

    format: Literal["subscape-scorecard/1"]
    """Its format."""
    subscape_version: str
    """For information."""
    decomposition: str
    """Which decomposition it is of."""
    inputs: str
    """SHA-256 of the data and settings that it was made from."""
    against: dict[str, str]
    """Which other runs it was compared with, by name."""
    settings: ScoreConfig
    """How much was looked at."""
    n_subnetworks: int
    """Directions, of groups all of them."""
    rows: str
    """What a row is."""
    divergence: str
    """Between outputs."""
    unit: str
    """What changes of outputs are counted in."""
    n_rows: int
    """Rows scored."""
    n_fit: int
    """Rows that controls were fitted on."""
    sections: tuple[Section, ...] = ()
    """In the order of `config.SECTIONS`."""

    def __getitem__(self, key: str) -> Section:
        for section in self.sections:
            if section.key == key:
                return section
        raise KeyError(f"{key}: not among {[s.key for s in self.sections]}")

    @property
    def seconds(self) -> float:
        """Processor time of all sections."""
        return sum((s.seconds for s in self.sections), 0.0)

    def __repr__(self) -> str:
        n = sum(s.left_out is None for s in self.sections)
        return f"Scorecard({n} sections over {self.n_rows:,} rows, {self.seconds:.0f} s)"

    def __str__(self) -> str:
        top = (
            f"{self.n_subnetworks} subnetworks, scored on {self.n_rows:,} rows ({self.rows}); controls fitted on "
            f"{self.n_fit:,} other rows; {self.seconds:.0f} s of processor time.\n"
            "* the subnetworks; all other lines are controls. ↑ more is better, ↓ less is better."
        )
        return "\n\n".join([top, *map(str, self.sections)])

    def _repr_html_(self) -> str:
        parts = []
        for s in self.sections:
            rows = [
                (e.name, *(shown(v, c) for v, c in zip(e.values, s.columns, strict=True)))
                for e in s.lines
            ]
            caption = f"{s.title}\n{s.left_out or ''}" if s.left_out else s.title
            parts.append(table(caption, ("", *map(head, s.columns)), rows))
        return "".join(parts)

    def verify(self, decomposition: Decomposition) -> None:
        """Refuse a decomposition that this is not the scorecard of."""
        right = self.decomposition == identity_of(decomposition)
        require(right, "scorecard", "that of this decomposition", "that of another one", AGAIN)

    def save(self, folder: str | Path) -> Path:
        """Write `scorecard.json`, whole or not at all."""
        path = Path(folder) / NAME
        write_json(path, msgspec.to_builtins(self))
        return path

    @classmethod
    def load(cls, folder: str | Path) -> Scorecard:
        """Read what `save` wrote; refuses anything else in one line."""
        file = Path(folder) / NAME
        if not file.is_file():
            expected, repair = f"a scorecard in {folder}", "Make one: subscape evaluate RUN."
            raise FileNotFoundError(problem("run", expected, f"no {NAME} there", repair))
        try:
            return msgspec.json.decode(regular(file).read_bytes(), type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
            expected = f"a scorecard of format {FORMAT}"
            raise ValueError(problem(str(file), expected, f"{error}", AGAIN)) from None


def is_scorecard(path: Path) -> bool:
    """Whether a scorecard, of this or another version, is in the file."""
    return str(json_object(path).get("format", "")).startswith("subscape-scorecard/")


def section(
    key: str, columns: Sequence[Column], lines: Sequence[Line], notes: Sequence[str] = ()
) -> Section:
    """A section that was made."""
    return Section(key, SECTIONS[key], tuple(columns), tuple(lines), tuple(notes))


def left_out(key: str, why: str) -> Section:
    """A section that is not made."""
    return Section(key, SECTIONS[key], left_out=why)


def columns(
    names: Sequence[str], better: Literal["high", "low", ""], *, percent: bool = False
) -> tuple[Column, ...]:
    """Columns that are alike."""
    return tuple(Column(name, better, percent) for name in names)
