"""Do L3D subnetworks of modular addition act through single LIB modules, or single frequencies?

Takes run folders of `subscape reproduce modular-addition` (one per seed of the checkpoints). The first matrix of
the MLP is decomposed (40 subnetworks, 4 active) with logits or the hidden layer as outputs; every subnetwork in
use is pushed along, and the energy of the change at `unembed` is set beside the modules there. Controls: random
directions of the same norms and ranks, and principal directions of the row gradients. Frequency: every direction
counts for the frequencies of its activation over all pairs. Some 30 s a setting on one core.

    subscape reproduce modular-addition --out runs/modadd
    SUBSCAPE_DATA=… python experiments/interaction_basis/bridge.py --write docs/interaction-basis.md
"""

import argparse
import os
import sys
from pathlib import Path
from statistics import mean

import torch

import subscape
from subscape import Target
from subscape._io import read_json, read_tensors
from subscape.cli.basis_bridge import principal_pushes, pushes_of
from subscape.interaction_basis import find_modules, module_shares
from subscape.interaction_basis.bridge import push_energy
from subscape.interaction_basis.stages import load_graphs, thresholds
from subscape.measures.control import random_like
from subscape.reproduce.fourier import frequency_shares
from subscape.reproduce.modular_addition import modular_addition_task, pair_tables
from subscape.rows import generator_of
from subscape.subnetworks.evaluation import DEAD_RATE

sys.path.append(str(Path(__file__).parents[1]))
import modular_addition as decomposing
import tables
from page import kept, slug

UNEMBED = 2
WEIGHT = "blocks.0.mlp.W_in"
SETTINGS = ("logits, whitened", "hidden layer, whitened", "hidden layer, published")
KINDS = ("subnetworks", "random", "principal")
N_INPUTS = 512


def decomposed(weights: dict, name: str, steps: int) -> dict[str, list]:
    """Pushes along subnetworks in use and along controls, by the name that the chain has for the matrix."""
    options = dict(decomposing.SETTINGS[name])
    model, x = decomposing.Mlp(weights).eval(), decomposing.inputs_of(weights)
    target = Target(model, "first.weight", outputs=options.pop("outputs"))
    order = torch.randperm(len(x), generator=generator_of(0, 95))
    result = subscape.decompose(
        target,
        x[order[1_000:]],
        heldout=x[order[:1_000]],
        n_subnetworks=decomposing.N_SUBNETWORKS,
        l0=4.0,
        rank=1,
        steps=steps,
        batch_size=256,
        progress=False,
        **options,
    )
    alive = (torch.tensor(result.metrics["active_rate"]) > DEAD_RATE).nonzero()[:, 0]
    directions = result.directions.select(alive)
    source = result.source(target, x[order[:1_000]])
    kinds = {
        "subnetworks": pushes_of(directions),
        "random": pushes_of(random_like(directions)),
        "principal": principal_pushes(source, len(alive)),
    }
    return {kind: [{WEIGHT: p["first.weight"].mT} for p in some] for kind, some in kinds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    named = os.environ.get("SUBSCAPE_DATA")
    parser.add_argument("--data", type=Path, default=named, required=named is None)
    parser.add_argument("--runs", type=Path, default=Path("runs/modadd"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[3])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--settings", nargs="+", default=SETTINGS, choices=decomposing.SETTINGS)
    parser.add_argument("--out", type=Path, default=Path("runs/bridge"))
    parser.add_argument("--write", type=Path, help="page to put the table into")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = []
    for seed in arguments.seeds:
        for name in arguments.settings:
            row = kept(
                arguments.out / f"{slug(name)}-{seed}-{arguments.steps}.json",
                lambda seed=seed, name=name: measured(arguments, seed, name),
            )
            for kind in KINDS:
                shown = [f"{row[kind][what]:.2f}" for what in ("module", "frequency")]
                lines.append([str(seed), name, kind, str(row["in_use"]), *shown])
            print(*lines[-len(KINDS) :], sep="\n", flush=True)
    head = ["seed", "outputs", "pushed along", "how many", "in one module", "in one frequency"]
    if arguments.write:
        tables.write_into(arguments.write, "bridge", tables.table(head, lines))


def measured(arguments, seed: int, name: str) -> dict:
    """Mean largest shares of one module and of one frequency, by kind of push."""
    folder = arguments.runs / f"seed{seed}"
    path = Path(arguments.data) / f"rib_modadd/seed{seed}.safetensors"
    task = modular_addition_task(path)
    assert task.weights is not None
    graph = load_graphs(folder)["lib"]
    modules = find_modules(graph, thresholds(read_json(folder / "ablation.json"), "lib"))
    rank = graph.bases[UNEMBED].rank
    over_pairs = pair_tables(task.chain, graph, most=rank)
    carried = [frequency_shares(over_pairs[UNEMBED, d]) for d in range(rank)]
    pushes = decomposed(read_tensors(path), name, arguments.steps)
    inputs = task.inputs[:N_INPUTS]
    found = module_shares(task.weights, graph, modules, pushes, inputs)
    row: dict = {"in_use": len(pushes["subnetworks"])}
    for kind, some in pushes.items():
        energies = [
            push_energy(task.weights, graph, push, inputs, [UNEMBED])[UNEMBED] for push in some
        ]
        pure = mean(one_frequency(energy, carried) for energy in energies)
        row[kind] = {"module": found.mean_largest(kind), "frequency": pure}
    return row


def one_frequency(energy: torch.Tensor, carried: list[dict[int, float]]) -> float:
    """The largest share of one frequency in the energy, of what is carried by any."""
    total: dict[int, float] = {}
    for e, shares in zip(energy.tolist(), carried, strict=True):
        for k, share in shares.items():
            total[k] = total.get(k, 0.0) + e * share
    return max(total.values()) / sum(total.values())


if __name__ == "__main__":
    main()
