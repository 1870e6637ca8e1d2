"""Are the modules of modular addition its Fourier frequencies, and do they act as such?

Takes the run folders of `subscape reproduce modular-addition` (one per seed). For LIB and PCA: modularity, z
against swapped edges, and the adjusted Rand index of modules against the leading frequency of every direction.
Then modules are taken away at ln2.0, one at a time, and the power of every frequency in the logits that is left is
set beside that left by random sets of as many directions.

    subscape reproduce modular-addition --out runs/modadd
    python experiments/interaction_basis/frequencies.py --runs runs/modadd
"""

import argparse
import json
import os
from collections import Counter
from pathlib import Path

import torch
from sklearn.metrics import adjusted_rand_score

from subscape._io import read_json, write_json
from subscape.interaction_basis import find_modules
from subscape.interaction_basis.causal import alone, edited, without
from subscape.interaction_basis.stages import METHODS, load_graphs, thresholds
from subscape.reproduce.fourier import frequency_shares
from subscape.reproduce.modular_addition import (
    load_modular_addition,
    modular_addition_pairs,
    pair_tables,
)

LAYER = 1
"""ln2.0."""
N_RANDOM = 20


def logit_power(logits: torch.Tensor, modulus: int) -> dict[int, float]:
    """Power of the waves of a + b in the logits [pair, number], by frequency."""
    table = logits[:, :modulus].double().reshape(modulus, modulus, -1)
    power = torch.fft.fft2(table, dim=(0, 1)).abs().square().sum(-1)
    return {k: float(power[k, k] + power[-k, -k]) for k in range(1, modulus // 2 + 1)}


def leading(tables: dict, members: tuple) -> tuple[int, float]:
    """The frequency with the largest share over the directions of a module, and that share."""
    total: Counter = Counter()
    there = [node for node in members if node in tables]
    for node in there:
        total.update(frequency_shares(tables[node]))
    (frequency, share), *_ = total.most_common(1)
    return frequency, share / len(there)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    named = os.environ.get("SUBSCAPE_DATA")
    parser.add_argument("--data", type=Path, default=named, required=named is None)
    parser.add_argument("--runs", type=Path, default=Path("runs/modadd"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 3])
    parser.add_argument("--modulus", type=int, default=113)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    for seed in arguments.seeds:
        folder = arguments.runs / f"seed{seed}"
        path = Path(arguments.data) / f"rib_modadd/seed{seed}.safetensors"
        chain = load_modular_addition(path)
        result: dict = {"seed": seed}
        for method, graph in load_graphs(folder).items():
            limits = thresholds(read_json(folder / "ablation.json"), method)
            found = find_modules(graph, limits)
            tables = pair_tables(chain, graph, modulus=arguments.modulus, most=40)
            member = {node: n for node, n in found.of().items() if node in tables}
            main_frequency = [next(iter(frequency_shares(tables[node])), 0) for node in member]
            index = adjusted_rand_score(main_frequency, list(member.values()))
            result[method] = {
                "modules": found.described,
                "rand_index": index,
                "frequencies": [leading(tables, m.members) for m in found.modules],
            }
            print(seed, method, json.dumps(result[method]), flush=True)
            if method == "lib":
                result["effects"] = effects(
                    chain, graph, found, result[method]["frequencies"], arguments.modulus
                )
        results.append(result)
    for method in METHODS:
        mean = sum(r[method]["rand_index"] for r in results) / len(results)
        print(f"{method}: mean adjusted Rand index against frequencies {mean:.2f}")
    write_json(arguments.runs / "frequencies.json", {"seeds": results})


def effects(chain, graph, found, frequencies, modulus: int) -> list[dict]:
    """Share of every key frequency's logit power that is left without a module, and with it alone."""
    inputs = modular_addition_pairs(modulus)
    basis = graph.bases[LAYER]
    with torch.no_grad():
        whole = logit_power(chain.outputs(inputs), modulus)
    # What the network adds with: those that lead a module, and all others with over 1 % of the power.
    keys = [k for k in whole if whole[k] > 0.01 * sum(whole.values())]
    pool = sorted(d for m in found.modules for d in m.directions(LAYER))
    generator = torch.Generator().manual_seed(0)
    rows = []

    def left(edit) -> dict[int, float]:
        with torch.no_grad():
            power = logit_power(edited(chain, LAYER, edit)(inputs), modulus)
        return {k: power[k] / whole[k] for k in keys}

    for module, (own, _) in zip(found.modules, frequencies, strict=True):
        mine = module.directions(LAYER)
        rest = [k for k in keys if k != own]

        def both(shares, own=own, rest=rest) -> tuple[float, float]:
            return shares.get(own, float("nan")), sum(shares[k] for k in rest) / len(rest)

        drawn = [
            [pool[k] for k in torch.randperm(len(pool), generator=generator)[: len(mine)]]
            for _ in range(N_RANDOM)
        ]
        random = [both(left(without(basis, some))) for some in drawn]
        without_it, alone_it = (left(f(basis, mine)) for f in (without, alone))
        row = {
            "frequency": own,
            "n_directions": len(mine),
            "keys": keys,
            "without": both(without_it),
            "alone": both(alone_it),
            "without_by_frequency": without_it,
            "random_without": [sum(r[n] for r in random) / N_RANDOM for n in (0, 1)],
        }
        print(json.dumps(row), flush=True)
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
