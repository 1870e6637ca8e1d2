"""How many: does consolidation end at the true circuits, whatever number and L0 it starts with?

    python experiments/how_many.py --out runs/how-many --write docs/how-many.md --set seeds=20

Claim: started with up to twice as many subnetworks as there are circuits, or with half or twice the L0,
training with `consolidate` succeeds as with the right numbers. Success as in docs/reproductions.md; a seed
that fails has missed a true subnetwork, or one that is left over lies within 0.5 of one. Control: the same
without consolidation (`both=True`). Every five seeds are kept as they are done.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from page import Record, draw, kept, main, slug

from subscape.reproduce.recipes import reproduction
from subscape.reproduce.toys import reproduce

TOYS = {"tms": (5, 0.5), "tms-40-10": (40, 4.0), "tmcs": (10, 1.0)}
"""True number of circuits, and L0 of docs/reproductions.md."""
CELLS = ((1.0, 1.0), (1.1, 1.0), (1.5, 1.0), (2.0, 1.0), (1.0, 0.5), (1.0, 2.0))
"""Factors of both."""
AT_ONCE = 5
"""Seeds side by side."""


def runs_of(
    name: str, n: int, l0: float, first: int, seeds: int, *, consolidate: bool, steps: int | None
) -> list[Record]:
    what = reproduction(name)
    more: dict[str, Any] = {} if steps is None else {"steps": steps}
    training = replace(
        what.training, n_subnetworks=n, l0=l0, active_fraction=None, consolidate=consolidate, **more
    )
    every = range(first, first + seeds)
    return reproduce(replace(what, training=training), every, progress=False)["runs"]


def measure(
    out: Path,
    *,
    seeds: int = 5,
    steps: int | None = None,
    toys: tuple[str, ...] = tuple(TOYS),
    cells: tuple[tuple[float, float], ...] = CELLS,
    both: bool = False,
) -> list[Record]:
    records = []
    for name in toys:
        true, usual = TOYS[name]
        for consolidate in (False, True) if both else (True,):
            for more, active in cells:
                n, l0 = round(more * true), active * usual
                runs: list[Record] = []
                for first in range(0, seeds, AT_ONCE):
                    size = min(AT_ONCE, seeds - first)
                    words = f"{name} {n} {l0} {steps} {consolidate} {first} {size}"
                    runs += kept(
                        out / f"{slug(words)}.json",
                        lambda f=first, s=size, n=n, l0=l0, c=consolidate, name=name: runs_of(
                            name, n, l0, f, s, consolidate=c, steps=steps
                        ),
                    )
                records.append(
                    record(runs)
                    | {"toy": name, "start": n, "l0": l0, "true": true, "consolidated": consolidate}
                )
    return records


def record(runs: list[Record]) -> Record:
    """One line: what came out of the seeds of a cell."""
    left = sorted(run["subnetworks"] for run in runs)
    missed = [run["seed"] for run in runs if not run["all_matched"]]
    spare = [run["seed"] for run in runs if run["all_matched"] and not run["success"]]
    return {
        "seeds": len(runs),
        "success": sum(run["success"] for run in runs),
        "left": f"{left[0]}" if left[0] == left[-1] else f"{left[0]}–{left[-1]}",
        "matched": sum(run["matched"] for run in runs),
        "truths": sum(run["truths"] for run in runs),
        "missed": missed,
        "spare": spare,
        "fvu": sum(run["fvu"] for run in runs) / len(runs),
        "seconds": sum(run["seconds"] for run in runs) / len(runs),
    }


COLUMNS = {
    "toy": "{toy}",
    "true number": "{true}",
    "started with": "{start}",
    "L0": "{l0:g}",
    "consolidated": "{consolidated}",
    "success": "{success} of {seeds}",
    "left": "{left}",
    "circuits matched": "{matched} of {truths}",
    "seeds that miss one": "{missed}",
    "seeds with one left over": "{spare}",
    "FVU": "{fvu:.3f}",
}


def picture(path: Path, records: list[Record]) -> None:
    lines = {}
    for name in dict.fromkeys(r["toy"] for r in records):
        own = [r for r in records if r["toy"] == name and r["consolidated"]]
        lines[name] = (
            [f"×{r['start'] / r['true']:.2g}, L0 {r['l0'] / TOYS[name][1]:g}" for r in own],
            [r["success"] / r["seeds"] for r in own],
        )
    draw(path, lines, x="number and L0, of the true ones", y="success", joined=False)


if __name__ == "__main__":
    main("how-many", __doc__, measure, COLUMNS, picture)
