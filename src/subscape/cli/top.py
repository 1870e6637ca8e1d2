"""`subscape top`: the subnetworks of a run by impact, or the top samples of one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import tyro

from subscape._checks import require
from subscape.cli.next_step import edit_of, then
from subscape.cli.run_folder import check_index, open_run
from subscape.measures import Measures, SubnetworkMeasures, TopOutputs
from subscape.measures.kept import tokens_at
from subscape.measures.record import TopSample
from subscape.measures.rule_names import RuleNames, rule_names

CONTEXT = 8
"""Tokens shown on either side of the one a subnetwork matters for."""


@dataclass(frozen=True)
class TopRun:
    """List the subnetworks of a measured run by impact, or show one: its top samples and outputs.

    Example: subscape top runs/attention --subnetwork 17
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
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
    """Carry out the command."""
    require(settings.n >= 1, "n", "at least 1", repr(settings.n))
    opened = open_run(settings.run)
    measures = opened.load_measures(settings.measures)
    if settings.subnetwork is None:
        entries = measures.ranked()[: settings.n]
        one = f"top {settings.run} --subnetwork {entries[0].index}"
        text = (
            _list(entries, measures, rule_names(measures))
            + "\n"
            + then(one, *edit_of(opened, measures))
        )
        shown = msgspec.to_builtins(entries)
    else:
        check_index(opened, settings.subnetwork)
        entry = measures[settings.subnetwork]
        text = _one(entry, measures, settings.n)
        if entry.delta is not None:
            text += "\n" + then(f"edit {opened.named} --set {entry.index}")
        shown = msgspec.to_builtins(entry)
    print(json.dumps(shown) if settings.json else text)


def _list(entries: list[SubnetworkMeasures], measures: Measures, by_rule: RuleNames) -> str:
    impact = f"impact ({measures.unit} per δ)"
    width = max(24, len(impact))
    lines = [
        f"{'subnetwork':>10} {'active':>7} {impact:>{width}} {'AUROC':>6} {'random':>6}  increases"
    ]
    for e in entries:
        up = e.top_outputs.up[:5] if e.top_outputs else ()
        names = " ".join(_output(pair.output, measures) for pair in up)
        names += f"  ({e.standing})" if e.standing else ""
        names += f"  [{by_rule.names[e.index]}]" if e.index in by_rule.names else ""
        s = e.selectivity
        aurocs = (None, None) if s is None else (s.auroc, s.auroc_random)
        lines.append(
            f"{e.index:>10} {e.active_rate:>7.1%} {e.impact:>{width}.3g} "
            f"{' '.join(map(_figure, aurocs))}  {names}"
        )
    n, chance = len(by_rule.names), by_rule.n_shuffled
    lines += [f"[names by rule] of {n}; of top rows dealt out at random {chance}"] if n else []
    return "\n".join(lines)


def _one(entry: SubnetworkMeasures, measures: Measures, n: int) -> str:
    lines = [
        f"subnetwork {entry.index}: active in {entry.active_rate:.1%} of rows, "
        f"impact {entry.impact:.3g} {measures.unit} per unit δ",
        "",
    ]
    top = entry.top_outputs or TopOutputs()
    for word, pairs in (("increases", top.up), ("decreases", top.down)):
        if pairs:
            names = "  ".join(f"{_output(i, measures)} {v:+.2g}" for i, v in pairs)
            lines.append(f"{word}: {names}")
    lines += ["", f"{'impact':>10}  sample"]
    lines += [f"{row.impact:>10.3g}  {_sample(row, measures)}" for row in entry.top_samples[:n]]
    return "\n".join(lines)


def _sample(row: TopSample, measures: Measures) -> str:
    kept = measures.samples
    where = f"{row.sample}" + ("" if row.position is None else f", position {row.position}")
    place = kept["index"].tolist().index(row.sample)
    if "input_ids" in kept and measures.names.tokens:
        texts = [measures.names.token(i) for i in tokens_at(kept, place)]
        at = len(texts) - 1 if row.position is None else row.position
        before, after = texts[max(0, at - CONTEXT) : at], texts[at + 1 : at + 1 + CONTEXT]
        return f"{''.join([*before, f'[{texts[at]}]', *after])!r}  ({where})"
    label = f", label {kept['labels'][place].item()}" if "labels" in kept else ""
    return f"sample {where}{label}"


def _output(index: int, measures: Measures) -> str:
    named = index in measures.names.outputs
    name = measures.names.output(index)
    return repr(name) if named else name


def _figure(value: float | None) -> str:
    return f"{value:>6.2f}" if value is not None else f"{'–':>6}"
