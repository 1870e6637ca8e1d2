"""LIB against PCA on an MLP trained on CIFAR-10: edges required, and directions required of every node layer.

The 2,000 images of `SUBSCAPE_DATA`, or a larger file by `--images` (.npz with `images` [n, 32, 32, 3] and
`labels`). Three quarters train the network and make the bases, the rest is scored. Images are averaged to `--size`
pixels a side, as the bases of 3,072 inputs take minutes. Expected, as published without numbers: LIB interacts
more sparsely.

    python experiments/interaction_basis/cifar_mlp.py --write docs/interaction-basis.md
"""

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from subscape.interaction_basis import ACCURACY, BasisConfig, Scored, Task, sequential_chain
from subscape.interaction_basis.stages import METHODS, ablate_stage, edges_stage
from subscape.interaction_basis.weights import of_model

sys.path.append(str(Path(__file__).parents[1]))
import tables


def images_and_labels(path: Path, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    with np.load(path) as kept:
        images = torch.from_numpy(kept["images"]).float().movedim(-1, 1) / 255
        labels = torch.from_numpy(kept["labels"].astype(np.int64))
    return nn.functional.adaptive_avg_pool2d(images, size).flatten(1) - images.mean(), labels


def trained(images: torch.Tensor, labels: torch.Tensor, hidden: int, epochs: int) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(images.shape[1], hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, 10),
    )
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    for _ in range(epochs):
        for some in torch.randperm(len(images)).split(64):
            loss = nn.functional.cross_entropy(model(images[some]), labels[some])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model.eval()


def task_of(path: Path, size: int, hidden: int, epochs: int) -> Task:
    """The trained network with the data that it is judged by."""
    images, labels = images_and_labels(path, size)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    used, scored = order.split([n := len(images) * 3 // 4, len(images) - n])
    model = trained(images[used], labels[used], hidden, epochs).double()
    images = images.double()
    return Task(
        sequential_chain(model),
        images[used],
        Scored(images[scored], labels[scored], ACCURACY, batch_size=500),
        weights=of_model(model, sequential_chain),
    )


def enough(curve: list[tuple[int, float]], base: float, tolerance: float) -> int:
    """The first number on a curve from which on the score stays within the tolerance."""
    bad = [n for n, score in curve if score < base - tolerance]
    return min(n for n, _ in curve if not bad or n > max(bad))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    named = os.environ.get("SUBSCAPE_DATA")
    default = named and Path(named) / "cifar10" / "train_first2000.npz"
    parser.add_argument("--images", type=Path, default=default, required=default is None)
    parser.add_argument("--out", type=Path, default=Path("runs/cifar-mlp"))
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--tolerance", type=float, default=0.01)
    parser.add_argument("--write", type=Path, help="page to put the table into")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start = time.process_time()
    task = task_of(arguments.images, arguments.size, arguments.hidden, arguments.epochs)
    config = BasisConfig(last="raw", allow_low_rank=True)
    edges_stage(task, config, arguments.out)
    found = ablate_stage(task, arguments.out, arguments.tolerance)
    names = found["names"]
    lines = []
    for n, (a, b) in enumerate(zip(names, names[1:], strict=False)):
        edges = [str(found[m]["sections"][n]["n_edges"]) for m in METHODS]
        curves = (found[m]["node_curves"][n] for m in METHODS)
        some = [str(enough(c, found["base"], arguments.tolerance)) for c in curves]
        lines.append([f"{a} → {b}", *edges, *some])
    lines.append(["all", *(str(found["total"][m]) for m in METHODS), "", ""])
    head = ["section", "edges, LIB", "PCA", "directions of its first layer, LIB", "PCA"]
    text = tables.table(head, lines) + (
        f"\n\n{len(task.inputs)} images make the bases, {len(task.scored.inputs)} are scored: accuracy "
        f"{found['base']:.3f}, tolerance {arguments.tolerance:g}; {task.inputs.shape[1]} inputs, two hidden "
        f"layers of {arguments.hidden}; {time.process_time() - start:.0f} s of processor time."
    )
    print(text)
    if arguments.write:
        tables.write_into(arguments.write, "cifar", text)


if __name__ == "__main__":
    main()
