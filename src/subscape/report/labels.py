"""Names and notes of subnetworks, given by people, by rule or by a model: `labels.json` in a run folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from subscape._checks import problem, require
from subscape._io import read_text, write_json

NAME = "labels.json"
FORMAT = "subscape-labels/1"
LONGEST_NAME, LONGEST_NOTE = 80, 2_000


@dataclass(frozen=True)
class Label:
    """What is said of one subnetwork."""

    name: str = ""
    """A few words that stand for it."""
    note: str = ""
    """Why, what is open, what was tried."""
    by: str = ""
    """What gave the name, `rule` or a model's name; empty of people."""

    def __post_init__(self) -> None:
        for what, longest in (("name", LONGEST_NAME), ("note", LONGEST_NOTE)):
            n = len(getattr(self, what))
            require(n <= longest, what, f"at most {longest:,} characters", f"{n:,}")


@dataclass(frozen=True)
class Labels:
    """The labels of one decomposition; numbers mean something in that one only."""

    decomposition: str
    """Which one; see `measures.record.identity_of`."""
    labels: Mapping[int, Label] = field(default_factory=dict)
    """By subnetwork."""
    format: str = FORMAT
    """Of the file."""

    def with_label(self, index: int, label: Label) -> Labels:
        """The same with one label more, another, or, where the new one is empty, less."""
        others = {k: v for k, v in self.labels.items() if k != index}
        changed = others if not (label.name or label.note) else others | {index: label}
        return Labels(self.decomposition, dict(sorted(changed.items())))

    def save(self, folder: str | Path) -> None:
        """Write `labels.json`."""
        write_json(Path(folder) / NAME, msgspec.to_builtins(self, str_keys=True))


def read_labels(folder: str | Path, decomposition: str) -> Labels:
    """The labels in a run folder; none if there is no file.

    Raises:
        ValueError: if the file is damaged, or its labels are of another decomposition.
    """
    file = Path(folder) / NAME
    if not file.is_file():
        return Labels(decomposition)
    repair = f"Move {file} away to start over."
    try:
        labels = msgspec.json.decode(read_text(file), type=Labels)
    except msgspec.DecodeError as error:
        raise ValueError(
            problem(str(file), f"labels of format {FORMAT}", f"{error}", repair)
        ) from None
    require(labels.format == FORMAT, str(file), f"format {FORMAT}", labels.format, repair)
    mine = labels.decomposition == decomposition
    require(mine, str(file), "labels of this decomposition", "those of another one", repair)
    return labels
