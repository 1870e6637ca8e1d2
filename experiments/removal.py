"""Is what was planted in a real model found, and can it be taken away?

    SUBSCAPE_DATA=… python experiments/removal.py --out runs/removal --write docs/removal.md

Rules "after this token comes that one" are planted in the MLP of layer 3 of `stories260k` (`subscape.planted`).
The changed model is decomposed without a word of them, on text that has their triggers, and of every rule the
subnetwork is taken whose coefficient tells its rows best. One line search of forward passes says how far the model
is to be moved along it until 3 % of the target's probability are left at the trigger. All is measured on text that
was not trained on, and beside what else one would do with the same rows (`removal_methods.py`):

- AUROC: of the direction's coefficient for the rows of the rule;
- cosine: of the direction with the planted change, both in the metric;
- left: probability of the target at the trigger, over what it was;
- elsewhere: mean KL of all other rows from the changed model, over the KL that the rule makes at its own rows.

What was measured is kept under --out: a run that was stopped goes on. One thread; a set of four rules takes about
two minutes.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from geometry_measures import Text, decomposed
from removal_methods import METHODS, MLP, SHORT, Case, figures_of
from tables import table, write_into

from subscape import Target
from subscape._io import read_json, read_tensors, write_json, write_tensors
from subscape.planted import Planted, mixture, plant
from subscape.subnetworks.editing import edited_copy

N_RULES = 4
LEAN = {"decay": 0.02, "penalty": 10.0, "steps": 300}
"""How rules are planted: without decay a change keeps what its random start put in, which does nothing."""
OPTIONS: dict[str, Any] = {"n_subnetworks": 100, "rank": 0.25, "l0": 5.0, "batch_size": 256}
FOUND, COSINE, LEFT, ELSEWHERE = 0.99, 0.8, 0.05, 0.02
"""What is asked for."""


@dataclass(frozen=True)
class Cell:
    """Rules of one rank, in one share of the rows."""

    rank: int
    share: float
    rules: int
    """How many of a set have their triggers in the text."""
    sets: int

    @property
    def name(self) -> str:
        return f"rank-{self.rank}-share-{self.share}"


MAIN = Cell(1, 0.01, 4, 5)
CELLS = [
    MAIN,
    *(Cell(rank, 0.01, 4, 2) for rank in (2, 4, 8)),
    *(Cell(1, share, 4, 2) for share in (0.002, 0.005)),
    Cell(1, 0.02, 3, 2),
    Cell(1, 0.05, 1, 5),
]


def plants_of(out: Path, text: Text, rank: int, number: int) -> Planted:
    """One set of rules, the same for every cell."""
    file = out / f"plants-rank-{rank}-{number}.safetensors"
    if not file.exists():
        new = plant(text.model, text.trained, MLP, n_rules=N_RULES, rank=rank, seed=number, **LEAN)
        rest = {n: getattr(new, n) for n in ("triggers", "targets", "probability", "before")}
        changes = {f"changes.{name}": change for name, change in new.changes.items()}
        write_tensors(file, changes | rest | {"kl": torch.tensor(new.kl)})
    kept = read_tensors(file)
    # In model order, in which directions are flattened; a file has its own.
    changes = {name: kept.pop(f"changes.{name}") for name in Target(text.model, MLP).names}
    model = edited_copy(text.model, {name: change.sum(0) for name, change in changes.items()})
    return Planted(model=model, changes=changes, kl=float(kept.pop("kl")), **kept)


def measured(out: Path, text: Text, cell: Cell, number: int, steps: int) -> list[dict[str, Any]]:
    """Figures of every rule of a set by method; from the file if they are there."""
    file = out / f"{cell.name}-{number}.json"
    if not file.exists():
        start = time.perf_counter()
        planted = plants_of(out, text, cell.rank, number)
        triggers = planted.triggers[: cell.rules]
        trained, held = (
            mixture(ids, triggers, share=cell.share, seed=number)
            for ids in (text.trained, text.held[: min(4000, len(text.held))])
        )
        options = OPTIONS | {"steps": steps, "parameters": MLP}
        found, seconds = decomposed(
            out / f"{cell.name}-{number}", planted.model, trained.ids, held.ids, number, options
        )
        case = Case.of(
            text.model,
            planted,
            found,
            trained,
            held,
            cell.rules,
            tuple(METHODS) if cell == MAIN else SHORT,
        )
        figures = [figures_of(case, rule) for rule in range(cell.rules)]
        write_json(file, {"rules": figures, "seconds": seconds})
        print(f"{cell.name} {number}: {time.perf_counter() - start:.0f} s", flush=True)
    return read_json(file)["rules"]


def is_met(figures: dict[str, float]) -> list[bool]:
    """Whether AUROC, cosine, what is left and what happens elsewhere are as asked for."""
    return [
        figures.get("auroc", 0.0) >= FOUND,
        figures.get("cosine", 0.0) >= COSINE,
        figures["left"] <= LEFT,
        figures["elsewhere"] <= ELSEWHERE,
    ]


def by_method(rules: Sequence[dict[str, Any]]) -> str:
    """Every method beside the others, on all rules of a cell."""
    head = ["direction", "AUROC", "cosine", "left", "elsewhere", "as asked for", "subnetwork ahead"]
    lines = []
    for name, title in METHODS.items():
        own = [rule[name] for rule in rules if name in rule]
        if not own:
            continue
        ahead = sum(r["subnetwork"]["elsewhere"] < r[name]["elsewhere"] for r in rules)
        kept = [sum(is_met(f)[place] for f in own) for place in range(4)]
        lines.append([
            title,
            _figure(own, "auroc", "{:.3f}", min),
            _figure(own, "cosine", "{:.2f}", min),
            _figure(own, "left", "{:.1%}", max),
            _figure(own, "elsewhere", "{:.2%}", max),
            f"{' / '.join(map(str, kept))} of {len(own)}",
            "" if name == "subnetwork" else f"{ahead} of {len(own)}",
        ])
    return table(head, lines)


def by_cell(cells: dict[Cell, list[dict[str, Any]]]) -> str:
    """The subnetwork, and the direction that labels give, by rank and share."""
    head = ["rank", "share", "rules", "AUROC", "cosine", "with labels", "left", "elsewhere"]
    head.append("with labels")
    lines = []
    for cell, rules in cells.items():
        own, labels = ([rule[name] for rule in rules] for name in ("subnetwork", "labels"))
        lines.append([
            f"{cell.rank}",
            f"{cell.share:.1%}",
            f"{len(rules)}",
            _figure(own, "auroc", "{:.3f}", min),
            _figure(own, "cosine", "{:.2f}", min),
            _figure(labels, "cosine", "{:.2f}", min),
            _figure(own, "left", "{:.1%}", max),
            _figure(own, "elsewhere", "{:.2%}", max),
            _figure(labels, "elsewhere", "{:.2%}", max),
        ])
    return table(head, lines)


def _figure(own: Sequence[dict[str, float]], name: str, form: str, worst: Any) -> str:
    values = [f[name] for f in own if name in f]
    return f"{form.format(median(values))} ({form.format(worst(values))})" if values else ""


def report(out: Path, cells: Sequence[Cell], number_of: dict[Cell, int]) -> str:
    """Tables of all that is there."""
    results = {
        cell: [
            rule
            for number in range(number_of[cell])
            if (file := out / f"{cell.name}-{number}.json").exists()
            for rule in read_json(file)["rules"]
        ]
        for cell in cells
    }
    results = {cell: rules for cell, rules in results.items() if rules}
    main = next(iter(results))
    own = [rule["subnetwork"] for rule in results[main]]
    restored = mean(f["restored"] for f in own)
    text = f"Rank {main.rank}, {main.share:.0%} of the rows, {len(own)} rules; median (worst).\n\n"
    text += by_method(results[main])
    text += f"\n\nThe subnetwork brings a rule's rows {restored:.0%} of the way back, in KL from the base model."
    return text + "\n\nBy rank and share, the subnetwork; median (worst):\n\n" + by_cell(results)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cells", type=int, default=len(CELLS), help="so many, from the first")
    parser.add_argument("--sets", type=int, help="sets of rules; by default five, or two")
    parser.add_argument("--steps", type=int, default=200, help="of every decomposition")
    parser.add_argument("--write", type=Path, help="page to put the tables into")
    parser.add_argument("--there", action="store_true", help="measure nothing more")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    text, cells = Text.load(), CELLS[: asked.cells]
    number_of = {cell: asked.sets or cell.sets for cell in cells}
    for cell in () if asked.there else cells:
        for number in range(number_of[cell]):
            measured(asked.out, text, cell, number, asked.steps)
    shown = report(asked.out, cells, number_of)
    print(shown)
    if asked.write:
        write_into(asked.write, "table", shown)


if __name__ == "__main__":
    main()
