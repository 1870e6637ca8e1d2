"""Parameters that trained MLPs make use of: by ranks of bases, and neurons that fire together.

The MLP on digits (trained here), the MLP on MNIST and the transformer for modular addition of `SUBSCAPE_DATA`.
Ranks at the noise of rounding and with directions of an importance below .0001 of the layer's largest left out.

    python experiments/interaction_basis/degeneracy.py --write docs/interaction-basis.md
"""

import argparse
import os
import sys
from pathlib import Path

import mnist_mlp
import torch

from subscape.interaction_basis import BasisConfig, Mlp, build_bases
from subscape.interaction_basis.degeneracy import firing, free_changes, parameter_count, together
from subscape.reproduce.digits import digits_task
from subscape.reproduce.modular_addition import modular_addition_task

sys.path.append(str(Path(__file__).parents[1]))
import tables

RTOL, LIKE = 1e-4, 0.95
N_INPUTS = 2000


def line_of(name, chain, inputs) -> list[str]:
    bases = build_bases(chain, inputs, BasisConfig(last="raw", allow_low_rank=True)).lib
    exact, rough = parameter_count(bases), parameter_count(bases, rtol=RTOL)
    units, groups = 0, [[], []]
    nodes = chain.nodes(inputs)
    for layer, section in enumerate(chain.sections):
        if isinstance(section, Mlp):
            likeness = firing(section, nodes[layer].split(256))
            units += len(likeness)
            for some, least in zip(groups, (0.99, LIKE), strict=True):
                some.extend(together(likeness, least))
    counts = [f"{sum(map(len, g))} in {len(g)} groups, {free_changes(g)}" for g in groups]
    return [
        name,
        *(f"{n:,}" for n in (exact.all, exact.effective, rough.effective)),
        str(units),
        *counts,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    named = os.environ.get("SUBSCAPE_DATA")
    parser.add_argument("--data", type=Path, default=named, required=named is None)
    parser.add_argument("--write", type=Path, help="page to put the table into")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = Path(arguments.data)
    digits = digits_task()
    images, _ = mnist_mlp.images_and_labels(data / "mnist")
    adds = modular_addition_task(data / "rib_modadd" / "seed3.safetensors")
    mnist = mnist_mlp.chain(data / "rib_mnist_mlp" / "model.safetensors", torch.float64)
    lines = [
        line_of("digits MLP", digits.chain, digits.inputs),
        line_of("MNIST MLP", mnist, images[:N_INPUTS]),
        line_of("modular addition, seed 3", adds.chain, adds.inputs[:N_INPUTS]),
    ]
    head = [
        "network",
        "parameters",
        "by rank",
        f"by rank above {RTOL:g}",
        "neurons",
        "that fire together at .99, free changes",
        f"at {LIKE:g}",
    ]
    text = tables.table(head, lines)
    print(text)
    if arguments.write:
        tables.write_into(arguments.write, "degeneracy", text)


if __name__ == "__main__":
    main()
