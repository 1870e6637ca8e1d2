"""The tables of docs/reproductions.md: which commands they are of, and what they show of their results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from subscape._markdown import table

WHITENED = "--reference mean --row-weight 0.5 --metric kronecker --l0 1"
SUPERPOSED = f"superposed {WHITENED}"
TWENTY = " --n-features 20 --n-hidden 10 --n-neurons 2"
BOTH = "--divergence half-reference-mse"


@dataclass(frozen=True)
class Line:
    """One line of a table."""

    what: str
    """The toy, in words."""
    command: str
    """What stands behind `subscape reproduce`."""


@dataclass(frozen=True)
class Table:
    """Lines with the same columns."""

    lines: Sequence[Line]
    columns: Sequence[str]
    """Of `COLUMNS`."""

    def markdown(self, results: Mapping[str, Mapping[str, Any]]) -> str:
        """The table, from `results.json` by command; a line without them is empty."""
        rows = []
        for line in self.lines:
            found = results.get(line.command)
            cells = [COLUMNS[c](found["summary"]) if found else "" for c in self.columns]
            rows.append([line.what, f"`{line.command}`", *cells])
        return table(["toy", "command `subscape reproduce …`", *self.columns], rows)


def _spread(key: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda s: f"{s[key]['mean']:.3f} ± {s[key]['std']:.3f}"


def _mean(key: str, digits: int = 3) -> Callable[[Mapping[str, Any]], str]:
    return lambda s: f"{s[key]['mean']:.{digits}f}"


def _of_seeds(key: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda s: f"{s[key]} of {s['seeds']}" if key in s else ""


COLUMNS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "FVU": _spread("fvu"),
    "of batches": _mean("fvu_of_batches"),
    "oracle": _mean("fvu_oracle"),
    "oracle by input": _mean("fvu_oracle_by_input"),
    "L0": _mean("l0", 1),
    "scalars": _mean("active_scalars", 1),
    "success": _of_seeds("success"),
    "matched": lambda s: f"{s['matched']} of {s['truths']}",
    "MMCS": _mean("mmcs"),
    "all five paths": _of_seeds("all_paths"),
    "circuits found": lambda s: f"{s.get('in_spans', s['matched'])}",
    "own": lambda s: f"{s['matched']} of {s['truths']}" if "in_spans" in s else "",
    "all circuits found": lambda s: _of_seeds(
        "all_in_spans" if "all_in_spans" in s else "all_matched"
    )(s),
}

_USUAL = ("FVU", "of batches", "oracle", "success", "matched", "MMCS")

TABLES: dict[str, Table] = {
    "toys": Table(
        (
            Line("TMS 5-2, as published", "tms --recipe published --seeds 100 --side-by-side 100"),
            Line("TMS 5-2, the authors' divergence", f"tms --recipe published --seeds 20 {BOTH}"),
            Line(
                "TMS 5-2 with a hidden identity layer", "tms-identity --seeds 100 --side-by-side 50"
            ),
            Line("three TMS in parallel", "tms-parallel --seeds 20 --steps 3000"),
            Line("TMS 40-10", "tms-40-10 --seeds 20"),
            Line("TMS 40-10, other seeds", "tms-40-10 --seeds 20 --first-seed 20"),
            Line("TMS 40-10, 44 subnetworks", "tms-40-10 --seeds 20 --n-subnetworks 44"),
            Line("TMCS", f"tmcs --seeds 100 {BOTH}"),
            Line("TMCS, 8 restarts", f"tmcs --seeds 100 {BOTH} --n-restarts 8 --steps 3000"),
            Line("TMCS under `mse`, 8 restarts", "tmcs --seeds 100 --n-restarts 8 --steps 3000"),
            Line("high rank", "high-rank --seeds 20"),
            Line(
                "X→X², 10 subnetworks of rank 2", "squared --seeds 20 --n-restarts 2 --steps 4000"
            ),
            Line("X→X², 8 restarts", "squared --seeds 20 --n-restarts 8 --steps 4000"),
            Line(
                "X→X², 5 subnetworks of rank 2", "squared --seeds 20 --n-subnetworks 5 --steps 3000"
            ),
        ),
        _USUAL,
    ),
    "others": Table(
        (
            Line("TMS 20-6", "tms --seeds 20 --n-features 20 --n-hidden 6"),
            Line(
                "signed TMS 10-5",
                "tms --seeds 20 --n-features 10 --n-hidden 5 --signed --steps 2000",
            ),
            *(
                Line(
                    f"TMCS 12→6→9{starts}",
                    f"tmcs --seeds 20 --n-features 12 --n-hidden 6 --n-outputs 9 {BOTH}{flags}",
                )
                for starts, flags in (
                    (", one start", " --steps 2000"),
                    (", four starts", " --n-restarts 4 --steps 2000"),
                    (", eight starts", " --n-restarts 8 --steps 3000"),
                )
            ),
            Line(
                "one input 100 times as large",
                "tms --seeds 20 --large-input 100 --metric kronecker --metric-damping 1e-6",
            ),
            Line(
                "the same, damping 0.01",
                "tms --seeds 20 --large-input 100 --metric kronecker --steps 2000",
            ),
            Line("the same, Euclidean", "tms --seeds 20 --large-input 100 --steps 2000"),
            Line("two correlated inputs", "tms --seeds 20 --correlation 0.5 --steps 2000"),
        ),
        _USUAL,
    ),
    "superposed": Table(
        (
            Line(
                "10 neurons, 20 circuits, load 1, published geometry",
                f"superposed --seeds 20 --steps 2000{TWENTY}",
            ),
            Line(
                "the same, whitened",
                f"{SUPERPOSED} --seeds 20 --steps 1500{TWENTY}",
            ),
            Line(
                "the same, from clusters",
                f"{SUPERPOSED} --seeds 20 --steps 1500{TWENTY} --start clusters",
            ),
            Line(
                "three of its failing seeds, 4 restarts",
                f"{SUPERPOSED} --first-seed 9 --seeds 3 --n-restarts 4 --steps 1500{TWENTY}",
            ),
            Line(
                "25 circuits, as many as there are lines",
                f"{SUPERPOSED} --seeds 3 --steps 1500 --n-features 25 --n-hidden 10 --n-neurons 2",
            ),
            Line(
                "load ¼",
                f"{SUPERPOSED} --seeds 3 --steps 1500{TWENTY} --probability 0.0125",
            ),
            Line(
                "load 2",
                f"{SUPERPOSED} --seeds 3 --steps 1500{TWENTY} --probability 0.1",
            ),
            Line(
                "21 neurons, 42 circuits, load 2.1",
                f"{SUPERPOSED} --seeds 3 --steps 1200 --n-features 42 --n-hidden 21",
            ),
        ),
        _USUAL,
    ),
    "paths": Table(
        (
            Line(
                "X→X², the paper's target",
                "squared-published --steps 2000 --n-restarts 2 --seeds 20",
            ),
        ),
        ("FVU", "oracle by input", "all five paths"),
    ),
    "groups": Table(
        (
            Line(
                "TMCS, 10 groups",
                "tmcs --seeds 20 --group-size 2 --active-fraction 0.05 --steps 2000 --n-restarts 4",
            ),
            Line(
                "TMCS, 10 groups, twice as active",
                "tmcs --seeds 20 --group-size 2 --steps 2000 --n-restarts 2",
            ),
            Line("TMCS, 10 directions", "tmcs --seeds 20 --steps 2000 --n-restarts 4"),
            Line(
                "TMCS, 20 directions",
                "tmcs --seeds 20 --n-subnetworks 20 --active-fraction 0.05 --steps 2000 --n-restarts 4",
            ),
            Line(
                "X→X², 5 groups",
                "squared --seeds 20 --n-subnetworks 5 --group-size 2 --steps 2000 --n-restarts 2",
            ),
            Line("X→X², 10 directions", "squared --seeds 20 --n-restarts 2 --steps 4000"),
        ),
        ("L0", "scalars", "FVU", "all circuits found", "circuits found", "own", "success"),
    ),
}
"""By the mark that a table stands between in the page."""
