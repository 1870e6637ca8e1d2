"""Do L3D subnetworks of modular addition act through single LIB modules, or single frequencies?

Takes run folders of `subscape reproduce modular-addition` (one per seed of the checkpoints). The first matrix of
the MLP is decomposed (40 subnetworks, 4 active) with logits or the hidden layer as outputs; every subnetwork in
use is pushed along, and the energy of the change at `unembed` is set beside the modules there. Controls: random
directions of the same norms and ranks, and principal directions of the row gradients. Frequency: every direction
counts for the frequencies of its activation over all pairs. Some 30 s a setting on one core.

    subscape reproduce modular-addition --out runs/modadd
    SUBSCAPE_DATA=… python experiments/interaction_basis/bridge.py --runs runs/modadd --seeds 3
"""

import argparse
import json
import os
import sys
from pathlib import Path

import torch

import subscape
from subscape import Target
from subscape._io import read_json, read_tensors, write_json
from subscape.cli.basis_bridge import principal_pushes, pushes_of
from subscape.interaction_basis import find_modules
from subscape.interaction_basis.bridge import bridge, push_energy
from subscape.interaction_basis.stages import load_graphs, thresholds
from subscape.measures.control import random_like
from subscape.reproduce.fourier import frequency_shares
from subscape.reproduce.modular_addition import modular_addition_task, pair_tables
from subscape.rows import generator_of
from subscape.subnetworks.evaluation import DEAD_RATE

sys.path.append(str(Path(__file__).parents[1]))
import modular_addition as decomposing

UNEMBED = 2
WEIGHT = "blocks.0.mlp.W_in"
SETTINGS = ("logits, whitened", "hidden layer, whitened", "hidden layer, published")
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
    parser.add_argument("--settings", nargs="+", default=SETTINGS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    for seed in arguments.seeds:
        folder = arguments.runs / f"seed{seed}"
        path = Path(arguments.data) / f"rib_modadd/seed{seed}.safetensors"
        task, tensors = modular_addition_task(path), read_tensors(path)
        graph = load_graphs(folder)["lib"]
        modules = find_modules(graph, thresholds(read_json(folder / "ablation.json"), "lib"))
        tables = pair_tables(task.chain, graph, most=graph.bases[UNEMBED].rank)
        carried = [frequency_shares(tables[UNEMBED, d]) for d in range(graph.bases[UNEMBED].rank)]
        for name in arguments.settings:
            pushes = decomposed(tensors, name, arguments.steps)
            inputs = task.inputs[:N_INPUTS]
            found = bridge(task.weights, graph, modules, pushes, inputs)
            row = {"seed": seed, "outputs": name, "in_use": len(pushes["subnetworks"])}
            for kind, some in pushes.items():
                pure = [
                    one_frequency(
                        push_energy(task.weights, graph, p, inputs, [UNEMBED])[UNEMBED], carried
                    )
                    for p in some
                ]
                row[kind] = {
                    "module": round(found.mean_largest(kind), 3),
                    "frequency": round(sum(pure) / len(pure), 3),
                    "in_no_module": round(float(found.shares[kind][:, -1].mean()), 3),
                }
            print(json.dumps(row), flush=True)
            results.append(row)
    write_json(arguments.runs / "bridge.json", {"rows": results})


def one_frequency(energy: torch.Tensor, carried: list[dict[int, float]]) -> float:
    """The largest share of one frequency in the energy, of what is carried by any."""
    total: dict[int, float] = {}
    for e, shares in zip(energy.tolist(), carried, strict=True):
        for k, share in shares.items():
            total[k] = total.get(k, 0.0) + e * share
    return max(total.values()) / sum(total.values())


if __name__ == "__main__":
    main()
