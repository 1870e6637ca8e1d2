"""Row gradients Σ c_k v_k of known directions: does training find them, or does the search or the loss fail?

    python experiments/synthetic.py --out runs/synthetic --write docs/open-questions.md

Claim: the codes and directions of a dictionary are the true ones, whatever the rates of firing, up to a
correlation of .5, with hierarchy and with noise. 30 rank-one directions over two matrices, 3 of them active
per row, coefficients of both signs. MCC: mean |correlation| of every true coefficient with its one-to-one
match among the codes, on rows not trained on. Controls: training started from the true directions (if that
too drifts away, and at a lower FVU, the fault is the loss's, not the search's), and principal directions and
random ones with all coefficients. About 5 minutes on one core. Expected: MCC of at least .95 up to
correlation .5.
"""

from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from page import Record, draw, kept, main, slug, spread
from torch import Tensor
from trained import source_of, trained

from subscape import Decomposition, TrainingConfig
from subscape.gradients import DenseRowGradients
from subscape.measures.oracle import principal_directions
from subscape.measures.recovery import match, recovery
from subscape.rows import generator_of
from subscape.subnetworks.evaluation import DEAD_RATE

SHAPES = {"first": (20, 16), "second": (12, 20)}
N_DIRECTIONS, L0 = 30, 3.0
N_ROWS, N_HELDOUT = 4_000, 2_000


@dataclass(frozen=True)
class Firing:
    """When directions fire."""

    zipf: float = 0.0
    """Rates fall as rank to the power of minus this."""
    correlation: float = 0.0
    """Of the firing of the two directions of every pair."""
    hierarchy: bool = False
    """Whether the second of every pair fires only where the first does, in half of its rows."""
    noise: float = 0.0
    """Energy of isotropic noise, as a share of the signal's."""

    def coefficients(self, n: int, generator: torch.Generator) -> Tensor:
        """c [row, direction]."""
        rank = torch.arange(1, N_DIRECTIONS // 2 + 1).double()
        rate = rank**-self.zipf
        pairs = 1.5 if self.hierarchy else 2.0
        rate = (rate * L0 / pairs / rate.sum()).clamp(max=0.5)
        drawn = torch.rand(2, n, len(rate), generator=generator)
        first = drawn[0] < rate
        both = rate + self.correlation * (1 - rate)
        alone = rate * (1 - self.correlation)
        second = drawn[1] < (
            torch.where(first, 0.5, 0.0) if self.hierarchy else torch.where(first, both, alone)
        )
        on = torch.stack([first, second], dim=2).flatten(1)
        size = 0.5 + torch.rand(n, N_DIRECTIONS, generator=generator)
        sign = 1 - 2 * (torch.rand(n, N_DIRECTIONS, generator=generator) < 0.5).float()
        return on * size * sign


SETTINGS = {
    "equal rates": Firing(),
    "Zipf 0.5": Firing(zipf=0.5),
    "Zipf 1": Firing(zipf=1.0),
    "correlation 0.25": Firing(correlation=0.25),
    "correlation 0.5": Firing(correlation=0.5),
    "correlation 0.75": Firing(correlation=0.75),
    "hierarchy": Firing(hierarchy=True),
    "noise 0.2": Firing(noise=0.2),
    "noise 1": Firing(noise=1.0),
    "Zipf 0.5, correlation 0.5, noise 0.2": Firing(zipf=0.5, correlation=0.5, noise=0.2),
}


def directions(generator: torch.Generator) -> Tensor:
    """Unit directions of rank one in every matrix."""
    parts = [
        torch.einsum(
            "ki,kj->kij",
            torch.randn(N_DIRECTIONS, shape[0], generator=generator),
            torch.randn(N_DIRECTIONS, shape[1], generator=generator),
        ).flatten(1)
        for shape in SHAPES.values()
    ]
    return torch.nn.functional.normalize(
        torch.cat([torch.nn.functional.normalize(part, dim=1) for part in parts], dim=1), dim=1
    )


def rows_of(
    firing: Firing, truth: Tensor, n: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Rows with at least one direction, and their coefficients."""
    coefficients = firing.coefficients(2 * n, generator)
    coefficients = coefficients[coefficients.any(1)][:n]
    rows = coefficients @ truth
    noise = torch.randn(rows.shape, generator=generator)
    scale = (firing.noise * rows.square().sum(1).mean() / rows.shape[1]).sqrt()
    return rows + scale * noise, coefficients


def correlated(true: Tensor, codes: Tensor) -> float:
    """MCC."""
    standard = [
        (v - v.mean(0)) / (v - v.mean(0)).norm(dim=0).clamp_min(1e-12)
        for v in (true.double(), codes.double())
    ]
    sizes = (standard[0].mT @ standard[1]).abs()
    return float(sizes[match(sizes)].sum() / true.shape[1])


def decomposed(firing: Firing, seeds: int, steps: int) -> list[Record]:
    truths, sources, held, coefficients = [], [], [], []
    for seed in range(seeds):
        truth = directions(generator_of(seed, 50))
        rows, _ = rows_of(firing, truth, N_ROWS, generator_of(seed, 51))
        fresh, true = rows_of(firing, truth, N_HELDOUT, generator_of(seed, 52))
        sources.append(source_of(rows, SHAPES, seed=2 * seed))
        held.append(sources[-1].over(fresh, seed=2 * seed + 1))
        truths.append(truth)
        coefficients.append(true)
    config = TrainingConfig(
        n_subnetworks=N_DIRECTIONS,
        rank=1,
        l0=L0,
        steps=steps,
        batch_size=128,
        learning_rate=0.01,
        n_heldout_rows=N_HELDOUT,
    )
    runs = trained(sources, held, config)
    near = trained(sources, held, config, truths)
    return [
        figures(*of_seed)
        for of_seed in zip(runs, near, truths, coefficients, (h.data for h in held), strict=True)
    ]


def figures(
    run: Decomposition, near: Decomposition, truth: Tensor, true: Tensor, rows: Any
) -> Record:
    gradients = DenseRowGradients(rows, {f"tensors.{k}": v for k, v in SHAPES.items()})
    found: Record = {}
    for name, result in (("", run), (" from truth", near)):
        codes = result.dictionary.reconstruct(gradients).codes
        alive = torch.tensor(result.metrics["active_rate"]) > DEAD_RATE
        compared = recovery(result.decoder.flat(), truth, alive=alive)
        found |= {
            f"mcc{name}": correlated(true, codes),
            f"mmcs{name}": compared.mmcs,
            f"success{name}": compared.success,
            f"fvu{name}": result.metrics["fvu"],
        }
    principal = principal_directions(rows, N_DIRECTIONS)
    random = torch.randn(truth.shape, generator=generator_of(0, 53))
    return found | {
        "mcc principal": correlated(true, rows @ principal.mT),
        "mcc random": correlated(true, rows @ random.mT),
    }


def measure(
    out: Path,
    *,
    seeds: int = 3,
    steps: int = 2_000,
    settings: tuple[str, ...] = tuple(SETTINGS),
) -> list[Record]:
    records = []
    for name in settings:
        firing = SETTINGS[name]
        runs = kept(
            out / f"{slug(name)}-{seeds}-{steps}.json",
            lambda firing=firing: decomposed(firing, seeds, steps),
        )
        every: dict[str, Any] = {key: [r[key] for r in runs] for key in runs[0]}
        averages = {key.replace(" ", "_"): mean(values) for key, values in every.items()}
        records.append({
            "name": name,
            "seeds": seeds,
            **averages,
            "mcc": spread(every["mcc"]),
            "success": sum(every["success"]),
            "runs": runs,
        })
    return records


COLUMNS = {
    "rows": "{name}",
    "MCC": "{mcc}",
    "MMCS": "{mmcs:.3f}",
    "success": "{success} of {seeds}",
    "FVU": "{fvu:.3f}",
    "from the truth: MCC": "{mcc_from_truth:.3f}",
    "FVU from the truth": "{fvu_from_truth:.3f}",
    "MCC, principal directions": "{mcc_principal:.2f}",
    "MCC, random directions": "{mcc_random:.2f}",
}


def picture(path: Path, records: list[Record]) -> None:
    names = list(range(len(records)))
    keys = ("mcc", "mcc from truth", "mcc principal", "mcc random")
    lines = {key: (names, [mean(run[key] for run in r["runs"]) for r in records]) for key in keys}
    draw(path, lines, x="line of the table", y="MCC", joined=False)


if __name__ == "__main__":
    main("synthetic", __doc__, measure, COLUMNS, picture)
