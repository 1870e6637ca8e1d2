"""Gradients at the activations against gradients averaged along a path: edges required of modular addition.

The published results take the gradient at the activations (`path_points=0`), so that an attribution is gradient
times activation and does not add up to the change of the output. With some points between the mean and the
activations it does. Both are counted here, with the completeness error of both.

    python experiments/interaction_basis/along_the_path.py --write docs/interaction-basis.md
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import torch

from subscape.interaction_basis import BasisConfig
from subscape.interaction_basis.edges import completeness_error
from subscape.interaction_basis.stages import METHODS, ablate_stage, build_stage, edges_stage
from subscape.reproduce.modular_addition import modular_addition_task

sys.path.append(str(Path(__file__).parents[1]))
import tables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    named = os.environ.get("SUBSCAPE_DATA")
    parser.add_argument("--data", type=Path, default=named, required=named is None)
    parser.add_argument("--out", type=Path, default=Path("runs/path"))
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--points", type=int, nargs="+", default=[0, 5])
    parser.add_argument("--write", type=Path, help="page to put the table into")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    task = modular_addition_task(
        Path(arguments.data) / f"rib_modadd/seed{arguments.seed}.safetensors"
    )
    lines = []
    for points in arguments.points:
        start = time.time()
        config = BasisConfig(last="raw", path_points=points)
        folder = arguments.out / f"seed{arguments.seed}-{points}-points"
        bases = build_stage(task, config, folder)
        edges_stage(task, config, folder)
        some = task.chain.nodes(task.inputs[:500])
        errors = [
            completeness_error(
                section, bases.lib[n], bases.lib[n + 1], [some[n]], quadrature=config.quadrature
            )
            for n, section in enumerate(task.chain.sections)
        ]
        found = ablate_stage(task, folder, 0.001, curves=False)
        counts = {m: [s["n_edges"] for s in found[m]["sections"]] for m in METHODS}
        row = {"points": points, **counts, "completeness_error": [round(e, 3) for e in errors]}
        print(json.dumps(row | {"seconds": round(time.time() - start)}), flush=True)
        name = f"integrated, {points} points" if points else "gradient"
        shown = [", ".join(map(str, counts[m])) for m in METHODS]
        lines.append([name, *shown, ", ".join(f"{e:.2f}" for e in errors)])
    head = ["attribution", "edges required, LIB", "PCA", "completeness error"]
    if arguments.write:
        tables.write_into(arguments.write, "path", tables.table(head, lines))


if __name__ == "__main__":
    main()
