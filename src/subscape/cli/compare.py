"""`subscape compare`: which subnetworks of one run are in another."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from subscape._checks import require
from subscape._io import check_free
from subscape.cli.next_step import then
from subscape.cli.run_folder import Run, open_run
from subscape.measures.rule_names import rule_names
from subscape.report.comparison import is_comparison, write_comparison
from subscape.report.labels import read_labels
from subscape.scorecard.compare import Comparison, compare


@dataclass(frozen=True)
class CompareRun:
    """Pair the subnetworks of two runs by their codes on the same held-out rows.

    The runs may differ in seed, settings or checkpoint. Pairs are one to one and maximise the sum of
    |correlation|; the same figure with shuffled rows stands beside it.

    Example: subscape compare runs/attention runs/attention-seed-1 -o both.html
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run folder."""
    other: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OTHER")]
    """The run to compare with, on the same data."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Page to write, with the top samples of every pair."""
    data: str | None = None
    """Data to encode; by default the first run's --heldout."""
    model: str | None = None
    """The model of both; by default the one that each run names."""
    n_rows: int = 2048
    """Rows to encode, at most."""
    n: int = 20
    """Lines to print."""
    device: str = "cpu"
    """Where the model runs: cpu, cuda, cuda:1, mps."""
    trust: bool = False
    """Call the functions that the runs name as their model and data. They can run any code."""
    overwrite: bool = False
    """Replace an earlier page."""
    json: bool = False
    """Print all of it as JSON."""


def run(settings: CompareRun) -> Comparison:
    """Carry out the command."""
    for name in ("n", "n_rows"):
        value = getattr(settings, name)
        require(value >= 1, name.replace("_", "-"), "at least 1", repr(value))
    if settings.out is not None:
        check_free(settings.out, overwrite=settings.overwrite, owned=is_comparison, name="out")
    options = {"trust": settings.trust, "device": settings.device}
    one = open_run(settings.run, settings.model, settings.data, **options)
    two = open_run(settings.other, settings.model, settings.data, **options)
    result = compare(
        one.decomposition,
        two.decomposition,
        one.target(),
        one.samples(),
        other_model=two.target(),
        n_rows=settings.n_rows,
    )
    names = (_names(one), _names(two))
    if settings.out is not None:
        write_comparison(
            settings.out,
            result,
            (str(settings.run), str(settings.other)),
            names=names,
            measures=(one.known_measures(), two.known_measures()),
            overwrite=settings.overwrite,
        )
    if settings.json:
        print(json.dumps(asdict(result)))
        return result
    print(f"{result}\n\n{'first':>6} {'second':>6} {'correlation':>11} {'cosine':>7}")
    for pair in result.pairs[: settings.n]:
        cosine = "–" if pair.cosine is None else f"{pair.cosine:+.2f}"
        named = " = ".join(n for n in (names[0].get(pair.a), names[1].get(pair.b)) if n)
        print(f"{pair.a:>6} {pair.b:>6} {pair.correlation:>+11.2f} {cosine:>7}  {named}".rstrip())
    if settings.out is not None:
        print(f"\n{settings.out}: open it in a browser")
    print(then(f"explore {settings.run} --beside {settings.other}"))
    return result


def _names(opened: Run) -> dict[int, str]:
    """Names of subnetworks: by rule, or those that somebody gave."""
    measures = opened.known_measures()
    if measures is None:
        return {}
    given = read_labels(opened.folder, measures.decomposition).labels
    return dict(rule_names(measures).names) | {k: v.name for k, v in given.items() if v.name}
