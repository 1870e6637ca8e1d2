"""High-rank circuits: which rank does a subnetwork need for circuits of rank 1 to 8?

    python experiments/ranks.py --out runs/ranks --write docs/open-questions.md

Claim: a subnetwork finds a circuit if its rank is at least the circuit's, and too large a rank does no harm.
Row gradients of ten known directions of rank 1 to 8 over two 24 × 24 matrices, one active per row on average,
with noise of a fifth of the energy; decomposed with rank 1 to 16. Controls: ranks too small and too large,
and the best that a rank can reach (cosine of a direction with its own truncation). About 2 minutes on one
core. Expected: MMCS at that bound up to the true rank, and no loss above it.
"""

from pathlib import Path
from statistics import mean

import torch
from page import Record, draw, kept, main
from torch import Tensor
from torch.nn.functional import normalize
from trained import source_of, trained

from subscape import TrainingConfig
from subscape.measures.recovery import recovery
from subscape.rows import generator_of
from subscape.subnetworks.evaluation import DEAD_RATE

SHAPES = {"first": (24, 24), "second": (24, 24)}
N_DIRECTIONS, NOISE, N_ROWS, N_HELDOUT = 10, 0.2, 3_000, 1_000
TRUE, FITTED = (1, 4, 8), (1, 2, 4, 8, 16)


def directions(rank: int, seed: int) -> Tensor:
    """Unit directions of that rank in every matrix, all singular values equal."""
    generator = generator_of(seed, 110, rank)
    parts = []
    for shape in SHAPES.values():
        left, right = (
            torch.linalg.qr(torch.randn(N_DIRECTIONS, n, rank, generator=generator)).Q
            for n in shape
        )
        parts.append((left @ right.mT).flatten(1))
    return normalize(torch.cat(parts, dim=1), dim=1)


def rows_of(truth: Tensor, n: int, generator: torch.Generator) -> Tensor:
    on = torch.rand(2 * n, N_DIRECTIONS, generator=generator) < 1 / N_DIRECTIONS
    on = on[on.any(1)][:n]
    size = 0.5 + torch.rand(on.shape, generator=generator)
    sign = 1 - 2 * (torch.rand(on.shape, generator=generator) < 0.5).float()
    rows = (on * size * sign) @ truth
    noise = torch.randn(rows.shape, generator=generator)
    return rows + noise * (NOISE * rows.square().sum(1).mean() / rows.shape[1]).sqrt()


def decomposed(true: int, fitted: int, seeds: int, steps: int) -> list[Record]:
    truths = [directions(true, seed) for seed in range(seeds)]
    sources = [
        source_of(rows_of(t, N_ROWS, generator_of(seed, 111)), SHAPES, seed=2 * seed)
        for seed, t in enumerate(truths)
    ]
    held = [
        s.over(rows_of(t, N_HELDOUT, generator_of(seed, 112)), seed=2 * seed + 1)
        for seed, (s, t) in enumerate(zip(sources, truths, strict=True))
    ]
    config = TrainingConfig(
        n_subnetworks=N_DIRECTIONS,
        rank=fitted,
        l0=1.5,
        steps=steps,
        batch_size=128,
        learning_rate=0.01,
        n_heldout_rows=N_HELDOUT,
    )
    found = []
    for truth, result in zip(truths, trained(sources, held, config), strict=True):
        alive = torch.tensor(result.metrics["active_rate"]) > DEAD_RATE
        compared = recovery(result.decoder.flat(), truth, alive=alive)
        found.append({"mmcs": compared.mmcs, "fvu": result.metrics["fvu"]})
    return found


def measure(
    out: Path,
    *,
    seeds: int = 1,
    steps: int = 600,
    true: tuple[int, ...] = TRUE,
    fitted: tuple[int, ...] = FITTED,
) -> list[Record]:
    records = []
    for rank in true:
        record: Record = {"true": rank}
        for own in fitted:
            runs = kept(
                out / f"{rank}-{own}-{seeds}-{steps}.json",
                lambda rank=rank, own=own: decomposed(rank, own, seeds, steps),
            )
            record[f"mmcs_{own}"] = mean(r["mmcs"] for r in runs)
            record[f"fvu_{own}"] = mean(r["fvu"] for r in runs)
            # All singular values are equal, so a rank keeps its share of the energy.
            record[f"most_{own}"] = min(1.0, own / rank) ** 0.5
        records.append(record)
    return records


COLUMNS = {
    "rank of the circuits": "{true}",
    **{f"MMCS at rank {r} (most)": f"{{mmcs_{r}:.2f}} ({{most_{r}:.2f}})" for r in FITTED},
    "FVU, rank 1 and 16": "{fvu_1:.2f}, {fvu_16:.2f}",
}


def picture(path: Path, records: list[Record]) -> None:
    lines = {
        f"circuits of rank {r['true']}": (list(FITTED), [r[f"mmcs_{f}"] for f in FITTED])
        for r in records
    }
    draw(path, lines, x="rank of the subnetworks", y="MMCS", log_x=True)


if __name__ == "__main__":
    main("ranks", __doc__, measure, COLUMNS, picture)
