"""The figures of arXiv 2504.00194 for the toys: pictures and, beside each, its numbers as JSON.

    python experiments/paper_figures.py --out runs/figures

Subnetworks drawn as networks (TMS, X→X²), encoder directions of TMS, coefficients of TMCS against A,
interventions over inputs and δ on X→X² with all tensors and with the hidden ones alone, a two-subnetwork
grid, selectivity of every toy, FVU over rank and over the number of subnetworks. About 10 minutes on one
core; --quick takes fewer steps.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import paper_drawings as draw
import torch

from subscape._io import write_json
from subscape.divergences import MSE
from subscape.gradients import GradientSource
from subscape.measures import (
    RowSet,
    auroc,
    delta_of_change,
    grid,
    outputs_at,
    random_like,
    sweep,
)
from subscape.measures.impact import coefficients_over_references, draws_of
from subscape.measures.selectivity import selectivity, spread
from subscape.report.sweep_figure import draw_grid
from subscape.reproduce.mixing import compare, mixing_recovery
from subscape.reproduce.recipes import reproduction
from subscape.reproduce.toys import compared_with_truth
from subscape.rows import generator_of
from subscape.subnetworks.editing import displacement
from subscape.subnetworks.evaluation import DEAD_RATE
from subscape.targets import Target
from subscape.toys import TOYS
from subscape.training.decompose import decompose

N_ROWS = 1_000
STRONG = 0.25
"""An input of at least this size is active beyond doubt: outputs grow with its square."""


SETTINGS = {
    "rank": "rank",
    "n_subnetworks": "subnetworks, always the same share of them active",
}
"""What the axis of a setting says."""


class Decomposed:
    """A toy with its decomposition, and which subnetwork stands for which true one."""

    def __init__(self, name: str, seed: int, steps: int, **settings) -> None:
        what = reproduction(name)
        self.what, self.name = what, name
        self.toy = TOYS[what.toy]([seed])[0]
        self.target = Target(self.toy.model)
        self.inputs = self.toy.sample(what.n_samples, generator_of(seed, 7, 0))
        self.fresh = self.toy.sample(N_ROWS, generator_of(seed, 7, 1))
        config = replace(what.training, steps=steps, seed=seed, **settings)
        self.found = decompose(
            self.target,
            self.inputs,
            heldout=self.fresh,
            divergence=what.divergence,
            config=config,
            progress=False,
        )
        truth, _, self.compared = compared_with_truth(self.toy, self.found, what.divergence)
        self.active = self.toy.inputs.active_groups(self.fresh)
        if len(truth.directions) > self.toy.n_groups:  # a circuit for each sign of the input
            self.active = torch.cat([self.fresh > 0, self.fresh < 0], 1)

    @property
    def matched(self) -> list[tuple[int, int]]:
        """True subnetworks and those that stand for them; a short run has none for some."""
        return [(true, k) for true, k in enumerate(self.compared.index.tolist()) if k >= 0]


def layers(names: list[str], part: dict) -> list[dict]:
    """A direction as layers of weight and bias."""
    if "W_in" in part:
        return [
            {"weight": part["W_in"].tolist()},
            {"weight": part["W_out"].tolist(), "bias": part["bias"].tolist()},
        ]
    weights = [n for n in names if n.endswith(".weight")]
    return [
        {"weight": part[n].tolist(), "bias": part[n.replace(".weight", ".bias")].tolist()}
        for n in weights
    ]


def drawn_networks(d: Decomposed) -> dict:
    """Every subnetwork that is alive, by falling active rate."""
    rate = d.found.metrics["active_rate"]
    order = sorted(range(len(d.found)), key=lambda k: -rate[k])
    names = list(d.found.layout.names)
    return {
        "subnetworks": [
            {
                "name": f"subnetwork {k}, active {rate[k]:.1%}",
                "layers": layers(names, d.found[k].dense()),
            }
            for k in order
            if rate[k] > DEAD_RATE
        ]
    }


def encoder_directions(d: Decomposed) -> dict:
    parts = d.found.encoder.dense()["W_in"].detach()  # [subnetwork, hidden, feature]
    feature = parts.norm(dim=1).argmax(1)
    columns = parts[torch.arange(len(parts)), :, feature]
    return {
        "features": dict(d.toy.model.named_parameters())["W_in"].detach().T.tolist(),
        "subnetworks": columns.tolist(),
        "feature": feature.tolist(),
    }


def mixing_coefficients(d: Decomposed) -> dict:
    assert d.toy.mixing is not None
    dense, own = d.found.decoder.dense(), dict(d.toy.model.named_parameters())
    read = mixing_recovery(dense["W_in"], dense["W_out"], own["W_in"], own["W_out"], d.toy.mixing)
    true = d.toy.mixing[:, read.feature].T
    columns = read.read_out.columns
    factor = (columns * true).sum(1, keepdim=True) / columns.square().sum(1, keepdim=True)
    against = compare(columns, true)
    return {
        "true": true.flatten().tolist(),
        "found": (factor * columns).flatten().tolist(),
        "pearson": against.pearson_scaled,
        "r_squared": against.r_squared,
        # Against what the target itself has learned, W_out W_in.
        "r_squared_target": read.read_out.r_squared,
    }


def over_inputs(d: Decomposed, tensors: list[str], delta: float) -> dict:
    """Output i over input i, when it is the only one, for every matched subnetwork and δ."""
    n = d.toy.n_inputs
    points = torch.linspace(-1, 1, 41)
    inputs = torch.zeros(n, len(points), n)
    for i in range(n):
        inputs[i, :, i] = points
    deltas = [-delta, -delta / 2, 0.0, delta / 2, delta]
    rows = RowSet(torch.arange(n * len(points)))
    matched = [k for _, k in d.matched]
    outputs = []
    for k in matched:
        per_delta = torch.stack([
            outputs_at(
                d.target,
                inputs.flatten(0, 1),
                rows,
                displacement(d.found.decoder, {k: step}, tensors),
            )
            for step in deltas
        ]).unflatten(1, (n, len(points)))
        # [feature][δ][point]: output i of input i
        outputs.append([per_delta[:, i, :, i].tolist() for i in range(n)])
    return {
        "inputs": points.tolist(),
        "delta": deltas,
        "subnetworks": [f"subnetwork {k}" for k in matched],
        "tensors": tensors,
        "outputs": outputs,
    }


def selectivities(d: Decomposed, tensors: list[str]) -> dict:
    """AUROC at the δ that changes relevant outputs by their spread, by three ideas of relevance."""
    source = GradientSource(d.target, d.fresh, divergence=d.what.divergence, seed=5)
    (draws,) = draws_of(source, torch.arange(N_ROWS), 10, N_ROWS, first=0)
    found, _ = coefficients_over_references(source, draws, d.found.encoder)
    impact = found.abs().mean(0)
    rows = RowSet(torch.arange(N_ROWS))
    size = spread(outputs_at(d.target, d.fresh, rows), MSE)
    control = random_like(d.found.decoder)
    entries = []
    for j, k in d.matched:
        active = d.active[:, j]
        by_impact = torch.zeros(N_ROWS, dtype=torch.bool)
        by_impact[impact[:, k].topk(int(active.sum()) // 2).indices] = True
        strong = active & (
            d.fresh.unflatten(1, (d.toy.n_groups, -1)).abs().amax(2)[:, j % d.toy.n_groups] > STRONG
        )
        clear = strong | ~active
        v = displacement(d.found.decoder, {k: 1.0}, tensors)
        w = displacement(control, {k: 1.0}, tensors)
        delta = delta_of_change(
            d.target, d.fresh, rows.select(active.nonzero()[:, 0]), v, MSE, size
        )
        entry = {"true": j, "subnetwork": k, "cosine": d.compared.cosine[j].item(), "delta": delta}
        for name, direction in (("auroc", v), ("random", w)):
            change = sweep(d.target, d.fresh, rows, direction, [delta, -delta], MSE).change
            mean = change.mean(0)
            entry[name] = {
                "by_impact": selectivity(change, by_impact, delta).auroc,
                "active": selectivity(change, active, delta).auroc,
                "active_beyond_doubt": auroc(mean[strong], mean[~active & clear]),
            }
        entries.append(entry)
    kinds = entries[0]["auroc"]
    return {
        "tensors": tensors,
        "mean": {
            name: {k: sum(e[name][k] for e in entries) / len(entries) for k in kinds}
            for name in ("auroc", "random")
        },
        "smallest": {k: min(e["auroc"][k] for e in entries) for k in kinds},
        "subnetworks": entries,
    }


def pair_grid(d: Decomposed, delta: float) -> dict:
    """Change of the outputs that two circuits are for, when both are moved."""
    (its, first), (others, second) = d.matched[:2]
    rows = RowSet((d.active[:, its] | d.active[:, others]).nonzero()[:, 0])
    deltas = [delta * s for s in (-1, -0.5, 0, 0.5, 1)]
    one, other = (displacement(d.found.decoder, {k: 1.0}) for k in (first, second))
    outputs = grid(d.target, d.fresh, rows, one, other, deltas)
    base = outputs_at(d.target, d.fresh, rows)
    change = [[MSE(cell, base).mean().item() for cell in line] for line in outputs]
    return {"subnetwork": first, "beside": second, "delta": deltas, "change": change, "unit": "mse"}


def fvu_over(setting: str, values: list, toys: dict, seeds: int, steps: int) -> dict:
    curves = {
        label: [
            [
                Decomposed(name, s, steps, **{setting: value}).found.metrics["fvu"]
                for s in range(seeds)
            ]
            for value in values
        ]
        for label, name in toys.items()
    }
    return {"setting": SETTINGS[setting], "values": values, "curves": curves}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/figures"))
    parser.add_argument("--quick", action="store_true", help="fewer steps and seeds")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    out, steps, seeds = arguments.out, *((1_000, 1) if arguments.quick else (5_000, 3))
    out.mkdir(parents=True, exist_ok=True)
    tms, tmcs, squared = (Decomposed(n, 0, steps, n_restarts=4) for n in ("tms", "tmcs", "squared"))
    draw.write_figure(out, "tms_subnetworks", drawn_networks(tms), draw.networks)
    draw.write_figure(out, "tms_encoders", encoder_directions(tms), draw.hidden_directions)
    draw.write_figure(out, "tmcs_coefficients", mixing_coefficients(tmcs), draw.coefficients)
    draw.write_figure(out, "squared_subnetworks", drawn_networks(squared), draw.networks)
    hidden = ["*", "!layers.4.*"]
    for name, tensors in (("all", ["*"]), ("hidden", hidden)):
        record = over_inputs(squared, tensors, 0.15)
        draw.write_figure(out, f"squared_interventions_{name}", record, draw.interventions)
    record = pair_grid(tms, 0.5)
    draw_grid(out / "tms_grid.png", record)
    write_json(out / "tms_grid.json", record)
    found = {d.name: selectivities(d, ["*"]) for d in (tms, tmcs, squared)}
    found["squared, hidden tensors only"] = selectivities(squared, hidden)
    write_json(out / "selectivity.json", found)
    for name, record in found.items():
        auc, random, least = record["mean"]["auroc"], record["mean"]["random"], record["smallest"]
        for kind in auc:
            figures = f"AUROC {auc[kind]:.3f} (least {least[kind]:.3f}), random {random[kind]:.3f}"
            print(f"{name:<30} {kind:<20} {figures}")
    toys = {"high rank, 10 subnetworks": "high-rank", "X→X², 10 subnetworks": "squared"}
    record = fvu_over("rank", [1, 2, 3, 5], toys, seeds, steps)
    draw.write_figure(out, "fvu_over_rank", record, draw.losses)
    toys = {"TMS 5-2": "tms", "X→X², rank 2": "squared"}
    record = fvu_over("n_subnetworks", [3, 5, 10, 15], toys, seeds, steps)
    draw.write_figure(out, "fvu_over_subnetworks", record, draw.losses)


if __name__ == "__main__":
    main()
