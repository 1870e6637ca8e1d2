"""`subscape label`: names of subnetworks by rule, or from a language model that is asked."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from subscape._checks import problem, require
from subscape._progress import bar
from subscape.cli.next_step import then
from subscape.cli.run_folder import open_run
from subscape.measures import Measures
from subscape.measures.rule_names import rule_names
from subscape.report.labels import NAME, Label, Labels, read_labels
from subscape.report.naming import TASK, Endpoint, description

RULE = "rule"
KEY = "SUBSCAPE_API_KEY"


@dataclass(frozen=True)
class LabelRun:
    """Name subnetworks in the run's labels.json, by what their top rows share or by asking a language model.

    Naming by rule sends nothing anywhere. With --endpoint and --model, what --dry-run prints is sent to that
    endpoint for every subnetwork without a name: up to ten of its top contexts and the names of outputs it
    moves. Names that people gave are never replaced. Reports and the explorer show them all.

    Examples: subscape label runs/attention

      subscape label runs/attention --endpoint http://localhost:8000/v1 --model NAME
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run folder that was measured; see subscape measure."""
    endpoint: str | None = None
    """URL of an OpenAI-compatible endpoint, up to /v1. A key is taken from the environment, SUBSCAPE_API_KEY."""
    model: str | None = None
    """Name of the model there."""
    subnetworks: tuple[int, ...] = ()
    """Only these subnetworks; by default all that are not dead."""
    dry_run: bool = False
    """Print what would be sent for the first subnetwork, and send nothing."""
    overwrite: bool = False
    """Also replace names that a rule or a model gave before."""
    json: bool = False
    """Print the names as JSON."""


def run(settings: LabelRun) -> Labels:
    """Carry out the command."""
    asked = settings.endpoint is not None
    got = f"--endpoint {settings.endpoint} and --model {settings.model}"
    require(asked == (settings.model is not None), "endpoint", "both --endpoint and --model", got)
    measures = open_run(settings.run).load_measures()
    wanted = settings.subnetworks or [e.index for e in measures.ranked() if e.standing != "dead"]
    n = len(measures)
    for index in wanted:
        require(0 <= index < n, "subnetworks", f"some of the {n}, 0 to {n - 1}", index)
    by = settings.model or RULE

    def open_ones() -> list[int]:
        """Those that may be named, as the file is now: somebody may be typing."""
        known = read_labels(settings.run, measures.decomposition).labels
        return [k for k in wanted if _is_open(known.get(k), by, settings.overwrite)]

    if settings.dry_run:
        told = next((t for k in open_ones() if (t := description(measures, k))), "nothing")
        print(f"{TASK}\n\n{told}")
        return read_labels(settings.run, measures.decomposition)
    name_of = _by_model(settings, measures) if asked else _by_rule(measures)
    named: dict[int, str] = {}
    for index in bar("label", open_ones(), progress=asked and not settings.json):
        name = name_of(index)
        if name and index in open_ones():
            labels = read_labels(settings.run, measures.decomposition)
            label = replace(labels.labels.get(index, Label()), name=name, by=by)
            labels.with_label(index, label).save(settings.run)
            named[index] = name
    if settings.json:
        print(json.dumps(named))
    else:
        lines = [f"{index:>6}  {name}" for index, name in sorted(named.items())]
        print("\n".join([*lines, f"{len(named)} names, by {by}, in {settings.run / NAME}"]))
        print(then(f"report {settings.run} -o report.html", f"explore {settings.run}"))
    return read_labels(settings.run, measures.decomposition)


def _is_open(label: Label | None, by: str, overwrite: bool) -> bool:
    if label is None or not label.name:
        return True
    # A rule says the same again, or nothing; a model is asked once.
    return bool(label.by) and (overwrite or (by != RULE and label.by == RULE))


def _by_rule(measures: Measures) -> Callable[[int], str]:
    names = rule_names(measures).names
    return lambda index: names.get(index, "")


def _by_model(settings: LabelRun, measures: Measures) -> Callable[[int], str]:
    if settings.endpoint is None or settings.model is None:
        raise ValueError(problem("endpoint", "both --endpoint and --model", "one of them"))
    endpoint = Endpoint(settings.endpoint, settings.model, os.environ.get(KEY))
    if not settings.json:
        print(
            f"To {settings.endpoint} go top contexts and names of outputs of single subnetworks, as --dry-run "
            "prints them."
        )

    def name_of(index: int) -> str:
        told = description(measures, index)
        return "" if told is None else endpoint.name_of(told)

    return name_of
