"""`subscape top`: the subnetworks of a run by impact, or the top samples of one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from torch import Tensor

from subscape._checks import require
from subscape.cli.run_folder import check_index, open_run
from subscape.measures import Measures

CONTEXT = 8
"""Tokens shown on either side of the one a subnetwork matters for."""


@dataclass(frozen=True)
class TopRun:
    """List the subnetworks of a measured run by impact, or show one: its top samples and outputs.

    Example: subscape top runs/attention --subnetwork 17
    """

    run: Annotated[Path, tyro.conf.Positional]
    """A run folder that was measured; see subscape measure."""
    subnetwork: int | None = None
    """Show this one."""
    n: int = 20
    """Lines to print."""
    measures: Path | None = None
    """Folder of the measures; by default the folder 'measures' in the run folder."""
    json: bool = False
    """Print as JSON."""


def run(settings: TopRun) -> None:
    """Carry out the command.

    Args:
        settings: what the command line said.

    Raises:
        ValueError: if there is no such subnetwork.
    """
    require(settings.n >= 1, "n", "at least 1", repr(settings.n))
    opened = open_run(settings.run)
    measures = opened.load_measures(settings.measures)
    if settings.subnetwork is None:
        entries = sorted(measures.record["subnetworks"], key=lambda e: -e["impact"])[: settings.n]
        if settings.json:
            print(json.dumps(entries))
        else:
            print(_list(entries, measures))
        return
    check_index(opened, settings.subnetwork)
    entry = measures.record["subnetworks"][settings.subnetwork]
    print(json.dumps(entry) if settings.json else _one(entry, measures, settings.n))


def _list(entries: list[dict[str, Any]], measures: Measures) -> str:
    unit = measures.record["unit"]
    lines = [
        f"{'subnetwork':>10} {'active':>7} {f'impact ({unit} per δ)':>24} {'AUROC':>6} {'random':>6}"
        "  increases"
    ]
    for e in entries:
        s = e.get("selectivity") or {}
        up = " ".join(_output(i, measures) for i, _ in e.get("top_outputs", {}).get("up", [])[:5])
        lines.append(
            f"{e['index']:>10} {e['active_rate']:>7.1%} {e['impact']:>24.3g} "
            f"{_figure(s.get('auroc'))} {_figure(s.get('auroc_random'))}  {up}"
        )
    return "\n".join(lines)


def _one(entry: Mapping[str, Any], measures: Measures, n: int) -> str:
    head = (
        f"subnetwork {entry['index']}: active in {entry['active_rate']:.1%} of rows, "
        f"impact {entry['impact']:.3g} {measures.record['unit']} per unit δ"
    )
    lines = [head, ""]
    for side, word in (("up", "increases"), ("down", "decreases")):
        found = entry.get("top_outputs", {}).get(side, [])
        if found:
            names = "  ".join(f"{_output(i, measures)} {v:+.2g}" for i, v in found)
            lines.append(f"{word}: {names}")
    lines += ["", f"{'impact':>10}  sample"]
    lines += [
        f"{row['impact']:>10.3g}  {_sample(row, measures)}" for row in entry["top_samples"][:n]
    ]
    return "\n".join(lines)


def _sample(row: Mapping[str, Any], measures: Measures) -> str:
    ids = measures.samples.get("input_ids")
    names = measures.record["names"]["tokens"]
    where = f"{row['sample']}" + (f", position {row['position']}" if "position" in row else "")
    if ids is None or not names:
        label = _label(row, measures)
        return f"sample {where}{label}"
    place = measures.samples["index"].tolist().index(row["sample"])
    texts = [names.get(str(int(i)), str(int(i))) for i in ids[place]]
    at = row.get("position", len(texts) - 1)
    before, after = texts[max(0, at - CONTEXT) : at], texts[at + 1 : at + 1 + CONTEXT]
    text = f"{''.join(before)}[{texts[at]}]{''.join(after)}"
    return f"{text!r}  ({where})"


def _label(row: Mapping[str, Any], measures: Measures) -> str:
    labels: Tensor | None = measures.samples.get("labels")
    if labels is None:
        return ""
    place = measures.samples["index"].tolist().index(row["sample"])
    return f", label {labels[place].item()}"


def _output(index: int, measures: Measures) -> str:
    name = measures.record["names"]["outputs"].get(str(int(index)))
    return repr(name) if name is not None else f"output {int(index)}"


def _figure(value: float | None) -> str:
    return f"{value:>6.2f}" if value is not None else f"{'–':>6}"
