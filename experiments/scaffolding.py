"""Scaffolding: is a circuit that is always on found, though selection by size is made for rare ones?

    python experiments/scaffolding.py --out runs/scaffolding --write docs/open-questions.md

Claim: batch top-k finds a circuit that works in every row as one subnetwork. TMS 5-2 with a second block
beside it, a low-rank map B A z of four inputs that are never 0, onto outputs of its own; scaled so that its
gradients have a share of 0 to 60 % of Σ‖g‖². Six subnetworks, under l0 = 0.5 as published (0.1 of five),
under l0 = 1.5, and under l0 = 0.5 with one more subnetwork outside of the selection, active in every row.
Found: a cosine of at least .9 with the first singular vector of the block's own gradients; features: TMS's
five all found. Control: share 0, where there is nothing to find. About 4 minutes on one core. Expected: found
in at least 19 of 20 from 5 to 60 %.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import mean

import torch
from page import Record, draw, kept, main, slug
from torch import Tensor, nn
from torch.nn.functional import normalize, pad
from trained import trained

from subscape import GradientSource, Target
from subscape.measures.recovery import MATCHED, absolute_cosines, recovery
from subscape.reproduce.recipes import reproduction
from subscape.rows import generator_of
from subscape.subnetworks.evaluation import DEAD_RATE
from subscape.subnetworks.selection import SELECTIONS, BatchTopK, largest
from subscape.toys import Toy, tms, true_subnetworks
from subscape.toys.truth import top_right_singular_vector

SHARES = (0.0, 0.05, 0.2, 0.4, 0.6)
N_ALWAYS, N_SUBNETWORKS, N_SAMPLES, N_HELDOUT = 4, 6, 4_000, 2_000


class OneAlways(BatchTopK):
    """Batch top-k with the first subnetwork outside of it: active in every row."""

    kind = "one-always"

    def forward(self, coefficients: Tensor) -> Tensor:
        keep = max(1, round(self.l0 * coefficients.shape[-2]))
        others = coefficients[..., 1:]
        chosen = others * largest(others.detach().abs(), keep)
        return torch.cat([coefficients[..., :1], chosen], dim=-1)

    def alone(self, coefficients: Tensor) -> Tensor:
        first = torch.arange(coefficients.shape[-1], device=coefficients.device) == 0
        return super().alone(coefficients) | first


SELECTIONS[OneAlways.kind] = OneAlways
SETTINGS = {
    "l0 0.5": {"l0": 0.5},
    "l0 1.5": {"l0": 1.5},
    "l0 0.5 and one always": {"l0": 0.5, "selection": OneAlways.kind},
}


class Beside(nn.Module):
    """A network and a low-rank map of further inputs, onto further outputs."""

    def __init__(self, network: nn.Module, n_own: int, inside: Tensor, outside: Tensor) -> None:
        super().__init__()
        self.network, self.n_own = network, n_own
        self.inside, self.outside = nn.Parameter(inside), nn.Parameter(outside)

    def forward(self, x: Tensor) -> Tensor:
        own = self.network(x[:, : self.n_own])
        return torch.cat([own, x[:, self.n_own :] @ self.inside.mT @ self.outside.mT], dim=1)


@cache
def toys_of(seeds: int) -> list[Toy]:
    return tms.many(range(seeds))


def inputs(toy: Toy, n: int, stream: int) -> Tensor:
    always = 0.5 + 0.5 * torch.rand(n, N_ALWAYS, generator=generator_of(toy.seed, 61, stream))
    return torch.cat([toy.sample(n, generator_of(toy.seed, 7, stream)), always], dim=1)


def source_of(toy: Toy, scale: float) -> GradientSource:
    generator = generator_of(toy.seed, 60)
    inside, outside = (
        scale**0.5 * normalize(torch.randn(shape, generator=generator), dim=dim)
        for shape, dim in (((1, N_ALWAYS), 1), ((N_ALWAYS, 1), 0))
    )
    # The parameters of the map come first, as those of a module come before its children's.
    model = Beside(toy.model, toy.n_inputs, inside, outside)
    return GradientSource(Target(model), inputs(toy, N_SAMPLES, 0), seed=2 * toy.seed)


def with_share(toy: Toy, share: float) -> tuple[GradientSource, Tensor]:
    """The source in which the map has that share of all energy, and the map's true direction."""
    source = source_of(toy, 1.0)
    n_map = 2 * N_ALWAYS
    rows = source.gradients(source.rows(0, 1024)).flat.double()
    direction = pad(top_right_singular_vector(rows[:, :n_map]), (0, rows.shape[1] - n_map))
    of_map, of_toy = rows[:, :n_map].square().sum(), rows[:, n_map:].square().sum()
    # The map's gradients grow with the scale to the power of 1.5.
    scale = float(share * of_toy / ((1 - share) * of_map)) ** (1 / 3)
    return source_of(toy, scale), direction


def decomposed(toys: list[Toy], share: float, options: dict, steps: int) -> list[Record]:
    sources, directions = zip(*(with_share(toy, share) for toy in toys), strict=True)
    held = [
        source.over(inputs(toy, N_HELDOUT, 1), seed=2 * toy.seed + 1)
        for source, toy in zip(sources, toys, strict=True)
    ]
    settings = {"n_subnetworks": N_SUBNETWORKS, "steps": steps, "n_heldout_rows": N_HELDOUT}
    config = replace(reproduction("tms").training, **settings, **options)
    figures = []
    runs = trained(sources, held, config)
    for toy, result, direction in zip(toys, runs, directions, strict=True):
        rate = torch.tensor(result.metrics["active_rate"])
        flat = result.decoder.flat()
        cosines = absolute_cosines(direction[None], flat)[0]
        best = int(cosines.argmax())
        truth = pad(true_subnetworks(toy).directions, (2 * N_ALWAYS, 0))
        compared = recovery(flat, truth, alive=rate > DEAD_RATE, represented=toy.represented)
        figures.append({
            "cosine": float(cosines[best]),
            "found": bool(cosines[best] >= MATCHED),
            "active_rate": float(rate[best]),
            "copies": int(((cosines >= 0.5) & (rate > DEAD_RATE)).sum()),
            "features": compared.all_matched,
            "fvu": result.metrics["fvu"],
        })
    return figures


def measure(out: Path, *, seeds: int = 20, steps: int = 1_000) -> list[Record]:
    records = []
    for name, options in SETTINGS.items():
        for share in SHARES:
            runs = kept(
                out / f"{slug(name)}-{share}-{seeds}-{steps}.json",
                lambda options=options, share=share: decomposed(
                    toys_of(seeds), share, options, steps
                ),
            )
            records.append({
                "selection": name,
                "share": share,
                "seeds": seeds,
                "found": sum(r["found"] for r in runs),
                "features": sum(r["features"] for r in runs),
                "split": sum(r["copies"] > 1 for r in runs),
                **{key: mean(r[key] for r in runs) for key in ("cosine", "active_rate", "fvu")},
                "runs": runs,
            })
    return records


COLUMNS = {
    "selection": "{selection}",
    "share of the map": "{share:.0%}",
    "map found": "{found} of {seeds}",
    "cosine": "{cosine:.2f}",
    "active rate": "{active_rate:.2f}",
    "seeds with a second at .5": "{split}",
    "all features found": "{features} of {seeds}",
    "FVU": "{fvu:.3f}",
}


def picture(path: Path, records: list[Record]) -> None:
    lines = {
        f"{name}: {key}": (
            [r["share"] for r in records if r["selection"] == name],
            [r[key] / r["seeds"] for r in records if r["selection"] == name],
        )
        for name in SETTINGS
        for key in ("found", "features")
    }
    draw(path, lines, x="the map's share of the energy", y="share of seeds")


if __name__ == "__main__":
    main("scaffolding", __doc__, measure, COLUMNS, picture)
