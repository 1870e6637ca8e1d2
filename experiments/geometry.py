"""Which reference, row weight and metric: one table of what the subnetworks of a real language model are good for.

    SUBSCAPE_DATA=… python experiments/geometry.py --out runs/geometry --write docs/geometry.md

Decomposes one block of `stories260k` under every setting and measures, on rows that were not trained on:

- agree: share of the subnetworks of whose 10 top positions at least 8 share the current token, the next token or
  the word class; distinct: the same of the 10 top positions whose contexts differ. (Windows of text begin with the
  same tokens again and again: rows that are equal fill a list of top positions by themselves, for random
  directions too.);
- ratio, AUROC, share: one subnetwork is pushed until the median KL of its top 1 % rows is 0.1 nats; how much more
  those rows move than the median other row, how well the movement tells them from the others, and how much of all
  movement falls on them (40 subnetworks, both signs averaged);
- stable: share of the subnetworks whose code correlates by at least 0.7 in absolute value with that of their
  one-to-one match in a run with the next seed;
- found, plants: six rank-1 rules planted in the MLP of layer 3 (`subscape.planted`), each in half a percent of the
  rows, decomposed blindly: how many are met by a direction at 0.8 of the cosine that the rule's own gradients
  reach, and the mean AUROC of the best code for a rule's rows; beside both the same of the base model, which has
  no rules, on the same text.

Beside agree, ratio, AUROC and share stand random directions of the same norms and ranks. What was measured is kept
under --out: a run that was stopped goes on. One thread; a setting takes about five minutes.
"""

import argparse
import hashlib
import time
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from geometry_measures import BLOCKS, Text, block, plants
from tables import table as markdown
from tables import write_into

from subscape._io import read_json, write_json, write_text

PUBLISHED: dict[str, Any] = {
    "reference": "another-row",
    "row_weight": "norm",
    "metric": "euclidean",
    "metric_power": 0.5,
    "metric_damping": 0.01,
    "n_subnetworks": 100,
    "l0": 10.0,
}


def setting(**changed: Any) -> dict[str, Any]:
    """The published setting with some things changed; with a fixed reference unless another is given."""
    return PUBLISHED | {"reference": "mean"} | changed


WHITE = {"metric": "kronecker"}
FEW = {"l0": 5.0, "rank": 0.25}
LONG = {"steps": 2_000}
SETTINGS = {
    "published": PUBLISHED,
    "published-long": PUBLISHED | LONG,
    "whitened-long": setting(row_weight="unit", **WHITE, **FEW, **LONG),
    "norm": setting(),
    "output": setting(row_weight="output"),
    "norm-kronecker": setting(**WHITE),
    "output-kronecker": setting(row_weight="output", **WHITE),
    "unit-kronecker": setting(row_weight="unit", **WHITE),
    "half-kronecker": setting(row_weight=0.5, **WHITE),
    "half-kronecker-few": setting(row_weight=0.5, **WHITE, **FEW),
    "three-quarters-kronecker-few": setting(row_weight=0.75, **WHITE, **FEW),
    "unit-kronecker-few": setting(row_weight="unit", **WHITE, **FEW),
    "unit-kronecker-few-clusters": setting(row_weight="unit", start="clusters", **WHITE, **FEW),
    "half-kronecker-few-long": setting(row_weight=0.5, **WHITE, **FEW, **LONG),
    "output-kronecker-p.25": setting(row_weight="output", metric_power=0.25, **WHITE),
    "norm-kronecker-p.25": setting(metric_power=0.25, **WHITE),
    "output-kronecker-d.1": setting(row_weight="output", metric_damping=0.1, **WHITE),
    **{
        f"{name}-{n}": setting(row_weight=weight, n_subnetworks=n, **WHITE)
        for n in (200, 400)
        for name, weight in (("norm-kronecker", "norm"), ("half-kronecker", 0.5))
    },
}
TRAINING = {"rank": 0.1, "batch_size": 256, "learning_rate": 0.006}


def options_of(name: str, steps: int) -> dict[str, Any]:
    """What `decompose` is told under a setting, but for parameters and seed."""
    return TRAINING | {"steps": steps} | SETTINGS[name]


def folder_of(out: Path, name: str, steps: int) -> Path:
    """Where the decompositions of a setting are kept."""
    options = options_of(name, steps)
    digest = hashlib.sha256(repr(sorted(options.items())).encode()).hexdigest()[:8]
    return out / f"{name}-{digest}"


def measured(out: Path, name: str, text: Text, arguments: argparse.Namespace) -> list[dict]:
    """One record per seed, each from its file if that is there."""
    options = options_of(name, arguments.steps)
    folder = folder_of(out, name, arguments.steps)
    records = []
    for seed in range(arguments.seeds):
        record: dict[str, Any] = {}
        parts: dict[str, Callable[[], dict]] = {
            name_: lambda seed=seed, name=name_: block(folder, text, options, 10 * seed, name)
            for name_ in BLOCKS
        }
        for name_, number in product(("planted", "base"), range(arguments.plants)):
            parts[f"{name_}-{number}"] = lambda seed=seed, name=name_, number=number: plants(
                out, folder, text, options, 10 * seed, number, name
            )
        for part, make in parts.items():
            file = folder / f"{part}-seed-{seed}.json"
            if part.rstrip("-0123456789") not in arguments.parts and not file.exists():
                continue
            if not file.exists():
                start = time.perf_counter()
                write_json(file, make())
                print(f"{name} seed {seed} {part}: {time.perf_counter() - start:.0f} s", flush=True)
            record[part] = read_json(file)
        records.append(record)
    return records


PARTS = (*BLOCKS, "planted", "base")
FIGURES = {
    "agree": ("agree", "{:.0%}"),
    "agree, random": ("agree_random", "{:.0%}"),
    "distinct": ("agree_distinct", "{:.0%}"),
    "distinct, random": ("agree_distinct_random", "{:.0%}"),
    "ratio": ("ratio", "{:.0f}"),
    "AUROC": ("auroc", "{:.2f}"),
    "share": ("share", "{:.0%}"),
    "pushed at random": ("random", "{}"),
    "stable": ("stable", "{:.0%}"),
}
"""Of a block: key of its record, and how it is shown."""
AFTER = {"FVU": ("fvu", "{:.2f}"), "seconds": ("seconds", "{:.0f}")}
COLUMNS = {
    **{c: (lambda r, k=key: _of_block(r, k), form) for c, (key, form) in FIGURES.items()},
    "found": (lambda r: _plants(r, "planted", lambda p: p["found"]), "{:.1f}"),
    "found in base": (lambda r: _plants(r, "base", lambda p: p["found"]), "{:.1f}"),
    "cosine": (lambda r: _plants(r, "planted", lambda p: mean(p["cosines"])), "{:.2f}"),
    "plants": (lambda r: _plants(r, "planted", lambda p: mean(p["aurocs"])), "{:.3f}"),
    "plants in base": (lambda r: _plants(r, "base", lambda p: mean(p["aurocs"])), "{:.3f}"),
    **{c: (lambda r, k=key: _of_block(r, k), form) for c, (key, form) in AFTER.items()},
}
JUDGED = ("distinct", "ratio", "AUROC", "share", "stable", "found", "plants")
"""Columns by which settings are ranked: of all more is better, and none depends on the metric."""


def _of_block(record: dict, figure: str, name: str = "attention") -> Any:
    """A figure of a block; None where it was not measured."""
    return record.get(name, {}).get(figure)


def _plants(record: dict, name: str, figure: Callable[[dict], float]) -> float | None:
    """Mean of a figure over sets of plants; None where none was measured."""
    values = [figure(value) for part, value in record.items() if part.startswith(name)]
    return mean(values) if values else None


def table(results: Mapping[str, list[dict]], steps: int) -> str:
    """The figures of all settings, with the mean rank of each over the columns judged."""
    values = {
        name: {
            column: [v for r in records if (v := of(r)) is not None]
            for column, (of, _) in COLUMNS.items()
        }
        for name, records in results.items()
    }
    ranks = {name: [] for name in values}
    for column in JUDGED:
        if not all(v[column] for v in values.values()):
            continue  # not measured everywhere
        means = {name: mean(v[column]) for name, v in values.items()}
        for name in values:
            better = sum(m > means[name] for m in means.values())
            equal = sum(m == means[name] for m in means.values())
            ranks[name].append(better + (equal + 1) / 2)
    lines = [
        ["setting", "reference", "row weight", "metric", "K", "L0", "rank", "steps"]
        + [*COLUMNS, "mean rank"]
    ]
    for name, columns in values.items():
        own = SETTINGS[name]
        power, damping = own["metric_power"], own["metric_damping"]
        white = f"Kronecker, p {power}, λ {damping}"
        lines.append([
            name,
            own["reference"],
            str(own["row_weight"]),
            white if own["metric"] == "kronecker" else "Euclidean",
            str(own["n_subnetworks"]),
            f"{own['l0']:g}",
            f"{own.get('rank', TRAINING['rank']):g}",
            f"{own.get('steps', steps):,}",
            *(_shown(columns[c], form) for c, (_, form) in COLUMNS.items()),
            f"{mean(ranks[name]):.1f}" if ranks[name] else "",
        ])
    return markdown(lines[0], lines[1:])


def other_blocks(results: Mapping[str, list[dict]]) -> str:
    """The figures of the other blocks, beside the attention block."""
    shown = FIGURES | AFTER
    lines = [["setting", "block", "seeds", *shown]]
    for setting_, records in results.items():
        for name in BLOCKS:
            some = [r[name] for r in records if name in r]
            if not some or not any(
                other in r for r in records for other in BLOCKS if other != "attention"
            ):
                continue
            cells = [_shown([r[key] for r in some], form) for key, form in shown.values()]
            lines.append([setting_, f"`{BLOCKS[name]}`", str(len(some)), *cells])
    return markdown(lines[0], lines[1:])


def _shown(values: list, form: str) -> str:
    # Where no push moved its rows as far as is aimed at there is nothing to show.
    values = [v for v in values if (v["ratio"] if isinstance(v, dict) else v) is not None]
    if not values:
        return ""
    if isinstance(values[0], dict):
        ratio, area, share = (mean(v[k] for v in values) for k in ("ratio", "auroc", "share"))
        return f"{ratio:.1f}; {area:.2f}; {share:.0%}"
    lowest = f" ({form.format(min(values))})" if len(values) > 1 else ""
    return form.format(mean(values)) + lowest


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--plants", type=int, default=1, help="sets of plants")
    parser.add_argument(
        "--parts", nargs="*", choices=PARTS, default=PARTS, help="none: what is there"
    )
    parser.add_argument("--steps", type=int, default=400, help="of all but the long settings")
    parser.add_argument("--write", type=Path, help="page to put the table into")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    text = Text.load()
    results = {}
    for name in arguments.settings:
        results[name] = measured(arguments.out, name, text, arguments)
        write_json(arguments.out / "geometry.json", {"settings": SETTINGS, "results": results})
        write_text(arguments.out / "geometry.md", table(results, arguments.steps) + "\n")
    print(table(results, arguments.steps))
    if arguments.write:
        write_into(arguments.write, "table", table(results, arguments.steps))
        write_into(arguments.write, "blocks", other_blocks(results))


if __name__ == "__main__":
    main()
