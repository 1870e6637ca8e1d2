"""Steering by subnetworks, beside what one would do otherwise: how much damage for the same effect.

    SUBSCAPE_DATA=… python experiments/steering.py RUN --out runs/steering --write docs/steering.md

RUN is a decomposition of a block of `stories260k`. A behaviour is asked for by rule: where the
text goes on with "she", make "he" likelier; make "happy" less likely where it comes next. Every method gets the
same few windows in which this is so, those with a penalty plain text besides (`steering_methods.py`). It gives a
line along which the model is moved; on other text the move is made longer until the log-probability of the targets
has changed by half a nat at the rows meant. There:

- ratio: mean KL of the rows meant over the mean KL of all other rows, 0 where half a nat is not reached;
- elsewhere: that mean KL of all other rows, in nats, in the behaviours in which it is reached with every seed;
- perplexity: by how much it rises there on the other rows;
- reached: behaviours and seeds in which half a nat is reached before the KL elsewhere is 3 nats;
- 90 %: the fewest of 3, 10 and 100 examples with which the effect at 0.01 nats elsewhere is at least 90 % of that
  with most; the median over behaviours.

What was measured is kept under --out: a run that was stopped goes on. One thread; a behaviour, a seed and a number
of examples take about ten seconds.
"""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from geometry_measures import Text
from steering_methods import (
    AIM,
    BEHAVIOURS,
    METHODS,
    Behaviour,
    Task,
    Windows,
    at_damage,
    at_effect,
    curve,
    moves,
)
from tables import table, write_into
from torch import Tensor

from subscape import Decomposition, Target
from subscape._io import read_json, write_json
from subscape.report.plotting import new_figure
from subscape.rows import generator_of

EXAMPLES = (10, 100, 3)
"""How many windows with the rows meant; the first is that of the table, the others have one seed."""
N_OTHERS, N_MEANT, N_PLAIN = 256, 40, 80
"""Windows of plain text to learn from; windows with the rows meant, and of plain text, to measure on."""
SMALL = 0.01
"""Nats elsewhere at which effects are compared between numbers of examples."""
N_BOOTSTRAP = 2000
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5)
SHOWN = (
    "one",
    "ten-kept",
    "vector",
    "vector-residual",
    "lora",
    "lora-kept",
    "gradient-metric",
    "random",
)


# One behaviour


def task_of(
    found: Decomposition, target: Target, text: Text, behaviour: Behaviour, n: int, seed: int
) -> Task:
    """Examples of a behaviour, and text to measure on."""
    number = {token: i for i, token in enumerate(text.texts)}
    rows, targets = (
        torch.tensor([number[token] for token in some])
        for some in (behaviour.rows, behaviour.targets)
    )
    generator = generator_of(seed, 60)

    def windows(ids: Tensor, some: Tensor, size: int) -> Windows:
        """Windows in which one of some tokens comes next, drawn anew for every seed."""
        meant = _next_is(ids, some)
        there = meant.any(1).nonzero()[:, 0]
        drawn = there[torch.randperm(len(there), generator=generator)[:size]]
        return _windows(target, ids[drawn], meant[drawn])

    def plain(ids: Tensor, size: int) -> Windows:
        drawn = torch.randperm(len(ids), generator=generator)[:size]
        return _windows(target, ids[drawn], _next_is(ids[drawn], rows))

    others = plain(text.trained, N_OTHERS)
    opposite = others.some(torch.arange(min(n, N_OTHERS)))
    opposite = Windows(opposite.ids, ~opposite.meant, opposite.own)
    if behaviour.sign > 0:
        opposite = windows(text.trained, targets, n)
    held = [windows(text.held, rows, N_MEANT), plain(text.held, N_PLAIN)]
    return Task(
        found=found,
        target=target,
        targets=targets,
        sign=behaviour.sign,
        examples=windows(text.trained, rows, n),
        opposite=opposite,
        others=others,
        held=Windows(*(torch.cat([getattr(w, f) for w in held]) for f in ("ids", "meant", "own"))),
        seed=seed,
    )


def _next_is(ids: Tensor, some: Tensor) -> Tensor:
    """Rows after which one of some tokens comes."""
    meant = torch.zeros_like(ids, dtype=torch.bool)
    meant[:, :-1] = torch.isin(ids[:, 1:], some)
    return meant


@torch.no_grad()
def _windows(target: Target, ids: Tensor, meant: Tensor) -> Windows:
    return Windows(ids, meant, target.called(ids))


def measured(
    out: Path, found: Decomposition, target: Target, text: Text, name: str, n: int, seed: int
) -> dict[str, Any]:
    """The curve of every method; from the file if it is there."""
    file = out / f"{list(BEHAVIOURS).index(name)}-{n}-{seed}.json"
    if not file.exists():
        task = task_of(found, target, text, BEHAVIOURS[name], n, seed)
        curves = {
            method: curve(task, moved) for method, moved in moves(task, list(METHODS)).items()
        }
        write_json(file, {"behaviour": name, "examples": n, "seed": seed, "curves": curves})
    return read_json(file)


# Figures

Curves = Mapping[tuple[str, int, int], Mapping[str, list[dict[str, float]]]]
"""By behaviour, number of examples and seed: by method."""


def of_behaviours(
    curves: Curves, method: str, n: int, figure: Callable[[list[dict[str, float]]], float | None]
) -> dict[str, float]:
    """A figure by behaviour, over its seeds; where one has none, none of that behaviour."""
    values: dict[str, list[float | None]] = {}
    for (name, examples, _), by_method in curves.items():
        if examples == n:
            values.setdefault(name, []).append(figure(by_method[method]))
    return {
        name: mean(v for v in own if v is not None)
        for name, own in values.items()
        if None not in own
    }


def ratio(points: list[dict[str, float]]) -> float:
    """KL of the rows meant over that of the others, at the effect asked for; 0 where that is not reached."""
    at = at_effect(points)
    return 0.0 if at is None else at["meant"] / max(at["elsewhere"], 1e-9)


def figure_at(name: str, aim: float = AIM) -> Callable[[list[dict[str, float]]], float | None]:
    """Another figure there."""

    def of(points: list[dict[str, float]]) -> float | None:
        at = at_effect(points, aim)
        return None if at is None else at[name]

    return of


def interval(values: Sequence[float]) -> tuple[float, float]:
    """A 95 % interval of the median, by drawing behaviours anew."""
    v = torch.tensor(list(values), dtype=torch.float64)
    drawn = torch.randint(len(v), (N_BOOTSTRAP, len(v)), generator=generator_of(0, 61))
    low, high = v[drawn].median(1).values.quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    return low, high


def fewest(curves: Curves, method: str) -> float | None:
    """Median over behaviours of the fewest examples that give 90 % of the effect of most of them."""
    sizes = sorted({n for _, n, _ in curves})
    if len(sizes) < 2:
        return None

    def effect(points: list[dict[str, float]]) -> float | None:
        at = at_damage(points, SMALL)
        return points[-1]["effect"] if at is None else at["effect"]

    by_size = {n: of_behaviours(curves, method, n, effect) for n in sizes}
    most = by_size[sizes[-1]]
    needed = [
        min(n for n in sizes if by_size[n].get(name, -math.inf) >= 0.9 * value)
        for name, value in most.items()
        if value > 0
    ]
    return median(needed) if needed else None


def by_method(curves: Curves, n: int, trained_of_lora: int) -> str:
    """Every method on all behaviours."""
    head = [
        "method",
        "numbers trained",
        "ratio (95 %)",
        "elsewhere",
        "perplexity",
        "reached",
        "90 %",
    ]
    lines = []
    runs = [by for (_, examples, _), by in curves.items() if examples == n]
    for name, method in METHODS.items():
        ratios = of_behaviours(curves, name, n, ratio)
        reached = sum(ratio(by[name]) > 0 for by in runs)
        line = [method.title, f"{trained_of_lora if method.trained is None else method.trained:,}"]
        low, high = interval(list(ratios.values()))
        line.append(f"{median(ratios.values()):.1f} ({low:.1f}–{high:.1f})")
        moved, rise = (
            list(of_behaviours(curves, name, n, figure_at(f)).values())
            for f in ("elsewhere", "entropy")
        )
        line += [f"{median(moved):.3f}", f"{math.expm1(median(rise)):+.1%}"] if moved else ["", ""]
        needed = fewest(curves, name)
        lines.append([*line, f"{reached} of {len(runs)}", "" if needed is None else f"{needed:g}"])
    return table(head, lines)


def against(curves: Curves, n: int) -> str:
    """In how many behaviours ten subnetworks with a penalty have the better ratio."""
    mine = of_behaviours(curves, "ten-kept", n, ratio)
    names = {name for name, _, _ in curves}

    def better(methods: Sequence[str], factor: float = 1.0) -> int:
        others = [of_behaviours(curves, method, n, ratio) for method in methods]
        return sum(
            mine.get(name, 0.0) >= factor * max(o.get(name, 0.0) for o in others)
            and mine.get(name, 0.0) > 0
            for name in names
        )

    rows = [
        ("3 times the better steering vector", better(["vector", "vector-residual"], 3)),
        ("the better steering vector", better(["vector", "vector-residual"])),
        ("the plain gradient", better(["gradient"])),
        ("the gradient in the metric", better(["gradient-metric"])),
        ("the LoRA", better(["lora"])),
        ("the LoRA with a penalty", better(["lora-kept"])),
        ("one subnetwork", better(["one"])),
    ]
    head = ["10 subnetworks with a penalty have a ratio of at least", "behaviours"]
    return table(head, [[name, f"{count} of {len(names)}"] for name, count in rows])


def picture(curves: Curves, n: int, path: Path) -> None:
    """Effect against damage, median over behaviours with 95 % intervals."""
    figure = new_figure((6.4, 4.0))
    axes = figure.subplots()
    for name in SHOWN:
        points = []
        for level in LEVELS:
            values = list(of_behaviours(curves, name, n, figure_at("elsewhere", level)).values())
            if values:
                points.append((level, median(values), *interval(values)))
        if points:
            effect, middle, low, high = zip(*points, strict=True)
            (line,) = axes.plot(middle, effect, marker="o", markersize=3, label=METHODS[name].title)
            axes.fill_betweenx(effect, low, high, color=line.get_color(), alpha=0.12)
    axes.set_xscale("log")
    axes.set_xlabel("mean KL of all other rows, nats")
    axes.set_ylabel("effect at the rows meant, nats")
    if axes.lines:
        axes.legend(fontsize=7, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--behaviours", type=int, default=len(BEHAVIOURS), help="so many, from the first"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--examples", type=int, nargs="+", default=EXAMPLES)
    parser.add_argument("--write", type=Path, help="page to put the tables into")
    parser.add_argument("--picture", type=Path, help="file for the curves")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    text = Text.load()
    final = asked.run / "final"
    found = Decomposition.from_pretrained(final if final.is_dir() else asked.run)
    target = found.target_in(text.model)
    names = list(BEHAVIOURS)[: asked.behaviours]
    curves = {}
    first = asked.examples[0]
    for n in asked.examples:
        for seed, name in product(range(asked.seeds if n == first else 1), names):
            record = measured(asked.out, found, target, text, name, n, seed)
            curves[name, n, seed] = record["curves"]
            print(f"{name}, {n} examples, seed {seed}", flush=True)
    ranks = {t.name: min(t.ranks) for t in found.layout.tensors}
    trained = sum(ranks[name] * sum(shape) for name, shape in target.shapes.items())
    shown = f"{first} examples, {len(names)} behaviours, {asked.seeds} seeds.\n\n"
    shown += by_method(curves, first, trained) + "\n\n" + against(curves, first)
    print(shown)
    if asked.write:
        write_into(asked.write, "table", shown)
    if asked.picture:
        picture(curves, first, asked.picture)


if __name__ == "__main__":
    main()
