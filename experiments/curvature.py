"""Dark matter or non-convexity: is what a decomposition leaves unexplained where the loss is curved?

    SUBSCAPE_DATA=… python experiments/curvature.py --out runs/curvature --write docs/open-questions.md

Claim under test: the unexplained part of a row gradient is there because gradients are local (the loss is not
linear that far), not for want of directions. q(u) = |D₊ + D₋ − 2 D₀| / |D₊ − D₋| at W₀ ± δ u, δ such that the
linear change is a tenth of the mean D₀: along what is explained, along the residual, along the gradient, and
along a random direction. If the claim is right q is larger along the residual, rows with a larger q have a
larger residual (rank correlation given ‖g‖), and the FVU falls when gradients are averaged over N(0, σ²)
around W₀ (σ a tenth of the root mean square weight, 16 draws); if directions are missing it falls with four
times as many subnetworks at the same L0. Controls: TMS (piecewise linear), X→X² (curved), random u. Reference
`mean`, no metric. About 6 minutes on one core.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from geometry_measures import Text
from page import Record, draw, kept, main
from stories import base
from torch import Tensor
from torch.func import functional_call, grad, vmap
from trained import source_of, trained

from subscape import Decomposition, FixedOutput, GradientSource, Target, TrainingConfig
from subscape.gradients import RowGradients
from subscape.reproduce.recipes import reproduction
from subscape.rows import generator_of
from subscape.toys import TOYS, Toy

SHARE = 0.1
"""Of the mean divergence: the linear change at which curvature is measured."""
SIGMA, N_DRAWS, MORE = 0.1, 16, 4
N_ROWS = 256
EUCLIDEAN: dict[str, Any] = {"reference": "mean", "row_weight": "norm", "metric": "euclidean"}


def flat(rows: RowGradients) -> Tensor:
    return torch.cat([g.flatten(1) for g in rows.dense().values()], dim=1)


def curvature(
    moved: Callable[[int, Tensor], Tensor], g: Tensor, u: Tensor, change: float
) -> Tensor:
    """q of every row along its own direction u [row, parameter]."""
    u = u / u.norm(dim=1, keepdim=True).clamp_min(1e-30)
    slope = (g * u).sum(1)
    values = []
    for row, (direction, s) in enumerate(zip(u, slope.tolist(), strict=True)):
        step = change / s if s else 0.0
        plus, minus, own = (float(moved(row, sign * step * direction)) for sign in (1, -1, 0))
        values.append(abs(plus + minus - 2 * own) / max(abs(plus - minus), 1e-30))
    return torch.tensor(values)


def partial_rank_correlation(x: Tensor, y: Tensor, given: Tensor) -> float:
    """Spearman's of x and y, without what the ranks of a third say of either."""

    def ranks(v: Tensor) -> Tensor:
        r = v.argsort().argsort().double()
        return (r - r.mean()) / r.std()

    a, b, c = ranks(x), ranks(y), ranks(given)
    ab, ac, bc = ((u * v).mean() for u, v in ((a, b), (a, c), (b, c)))
    return float((ab - ac * bc) / ((1 - ac**2) * (1 - bc**2)).clamp_min(1e-12).sqrt())


@torch.no_grad()
def of_rows(
    result: Decomposition, source: GradientSource, samples: Tensor, pick: Tensor | None = None
) -> Record:
    """Curvature and residual of some rows; of a sequence the row picked in each sample."""
    target, divergence = source.target, source.divergence
    rows = source.rows_of(samples)
    gradients = source.gradients(rows)
    per_sample = len(rows) // len(samples)
    which = torch.arange(len(samples)) * per_sample + (0 if pick is None else pick)
    g = flat(gradients)[which]
    codes = result.dictionary.reconstruct(gradients).codes[which]
    explained = codes @ result.decoder.flat()
    reference = source.reference
    assert isinstance(reference, FixedOutput)
    places = [p.numel() for p in target.parameters.values()]

    def moved(row: int, by: Tensor) -> Tensor:
        parts = by.split(places)
        new = {
            name: p + part.view_as(p)
            for (name, p), part in zip(target.parameters.items(), parts, strict=True)
        }
        inputs = source._inputs(samples[[row]])
        outputs = target.outputs(inputs, new).reshape(per_sample, -1)
        at = 0 if pick is None else int(pick[row])
        return divergence(outputs[[at]], reference.output[None])[0]

    own = mean(float(moved(row, torch.zeros_like(g[0]))) for row in range(len(g)))
    at = codes.any(1).nonzero()[:, 0]  # rows of which something is explained
    g, explained = g[at], explained[at]
    random = torch.randn(g.shape, generator=generator_of(0, 100))
    along = {"explained": explained, "residual": g - explained, "gradient": g, "random": random}
    q = {
        name: curvature(lambda row, by: moved(int(at[row]), by), g, u, SHARE * own)
        for name, u in along.items()
    }
    share = (g - explained).square().sum(1) / g.square().sum(1)
    return {
        **{f"q {name}": float(values.median()) for name, values in q.items()},
        "correlation": partial_rank_correlation(share, q["gradient"], g.norm(dim=1)),
        "fvu": result.metrics["fvu"],
    }


def averaged(toy: Toy, x: Tensor, reference: Tensor, sigma: float, seed: int) -> Tensor:
    """Row gradients averaged over weights around the toy's own."""
    weights = {k: v.detach() for k, v in toy.model.named_parameters()}

    def divergence(values: dict[str, Tensor], one: Tensor) -> Tensor:
        outputs = functional_call(toy.model, values, (one[None],))
        return (outputs[0] - reference).square().mean()

    size = torch.cat([w.flatten() for w in weights.values()]).square().mean().sqrt()
    total, generator = torch.zeros(()), generator_of(seed, 101)
    n = N_DRAWS if sigma else 1
    for _ in range(n):
        near = {
            k: w + sigma * size * torch.randn(w.shape, generator=generator)
            for k, w in weights.items()
        }
        rows = vmap(grad(divergence), in_dims=(None, 0))(near, x)
        total = total + torch.cat([v.flatten(1) for v in rows.values()], dim=1) / n
    return total.detach()


def of_toys(name: str, seeds: int, steps: int) -> list[Record]:
    what = reproduction(name)
    toys = TOYS[what.toy](range(seeds))
    config = replace(what.training, steps=steps, n_heldout_rows=1_000)
    found = []
    sources = [
        GradientSource(
            Target(t.model),
            t.sample(what.n_samples, generator_of(t.seed, 7, 0)),
            reference="mean",
            seed=2 * t.seed,
        )
        for t in toys
    ]
    held = [
        s.over(t.sample(1_000, generator_of(t.seed, 7, 1)), seed=2 * t.seed + 1)
        for s, t in zip(sources, toys, strict=True)
    ]
    runs = trained(sources, held, config)
    more = replace(config, n_subnetworks=MORE * config.n_subnetworks, l0=config.n_active)
    many = trained(sources, held, replace(more, active_fraction=None))
    fvu = {sigma: around(toys, sources, held, sigma, config) for sigma in (0.0, SIGMA)}
    for i, (result, source) in enumerate(zip(runs, held, strict=True)):
        found.append(
            of_rows(result, source, torch.arange(N_ROWS))
            | {"more": many[i].metrics["fvu"], "fvu": fvu[0.0][i], "averaged": fvu[SIGMA][i]}
        )
    return found


def around(
    toys: list[Toy],
    sources: list[GradientSource],
    held: list[GradientSource],
    sigma: float,
    config: TrainingConfig,
) -> list[float]:
    """FVU of decompositions of averaged gradients."""
    given = []
    for toy, *both in zip(toys, sources, held, strict=True):
        shapes = {k.replace(".", "-"): tuple(p.shape) for k, p in toy.model.named_parameters()}
        rows = []
        for number, one in enumerate(both):
            assert isinstance(one.reference, FixedOutput)
            x = one.data
            assert isinstance(x, Tensor)
            rows.append(averaged(toy, x, one.reference.output, sigma, 10 * toy.seed + number))
        given.append((source_of(rows[0], shapes, seed=2 * toy.seed), rows[1]))
    fresh = [source.over(rows, seed=2 * i + 1) for i, (source, rows) in enumerate(given)]
    return [d.metrics["fvu"] for d in trained([s for s, _ in given], fresh, config)]


def of_stories(out: Path, steps: int, n_rows: int) -> list[Record]:
    text = Text.load()
    result, source = base(out.parent / "stories", text, steps=steps, **EUCLIDEAN)
    pick = torch.randint(4, 16, (n_rows,), generator=generator_of(0, 102))
    return [of_rows(result, source, torch.arange(n_rows), pick)]


def measure(
    out: Path,
    *,
    seeds: int = 3,
    steps: int = 800,
    stories_steps: int = 200,
    n_rows: int = 128,
    names: tuple[str, ...] = ("tms", "squared", "stories260k"),
) -> list[Record]:
    records = []
    for name in names:
        runs = kept(
            out / f"{name}-{seeds}-{steps}.json",
            lambda name=name: (
                of_stories(out, stories_steps, n_rows)
                if name == "stories260k"
                else of_toys(name, seeds, steps)
            ),
        )
        blank = {"more": float("nan"), "averaged": float("nan")}
        means = {k.replace(" ", "_"): mean(r[k] for r in runs) for k in runs[0]}
        records.append({"model": name, **blank, **means})
    return records


COLUMNS = {
    "model": "{model}",
    "q, explained": "{q_explained:.3f}",
    "q, residual": "{q_residual:.3f}",
    "q, gradient": "{q_gradient:.3f}",
    "q, random": "{q_random:.3f}",
    "correlation of residual and q": "{correlation:.2f}",
    "FVU": "{fvu:.3f}",
    "FVU, averaged gradients": "{averaged:.3f}",
    "FVU, 4 times as many": "{more:.3f}",
}


def picture(path: Path, records: list[Record]) -> None:
    names = ("explained", "residual", "gradient", "random")
    lines = {r["model"]: (list(range(4)), [r[f"q_{n}"] for n in names]) for r in records}
    draw(path, lines, x=", ".join(names), y="median q", joined=False)


if __name__ == "__main__":
    main("curvature", __doc__, measure, COLUMNS, picture)
