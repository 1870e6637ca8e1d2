"""LIB against PCA on a trained MNIST MLP 784-100-100-10 (ReLU): node and edge ablation.

Half of the 10,000 test images make the bases and edges, the other half is scored. Expected: LIB needs no
more edges than PCA.

    python experiments/interaction_basis/mnist_mlp.py --data FOLDER --out runs/mnist-mlp
"""

import argparse
import gzip
import os
import time
from pathlib import Path

import numpy as np
import torch

from subscape._io import read_tensors
from subscape.interaction_basis import ACCURACY, Affine, BasisConfig, Chain, Mlp, Scored, Task
from subscape.interaction_basis.figures import report_stage
from subscape.interaction_basis.stages import ablate_stage, edges_stage, modules_stage


def images_and_labels(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    def read(name: str, header: int) -> np.ndarray:
        with gzip.open(folder / name) as file:
            return np.frombuffer(file.read(), np.uint8, offset=header)

    images = read("t10k-images-idx3-ubyte.gz", 16).reshape(-1, 784)
    labels = read("t10k-labels-idx1-ubyte.gz", 8)
    return torch.from_numpy(images / 255.0), torch.from_numpy(labels.astype(np.int64))


def chain(path: Path, dtype: torch.dtype) -> Chain:
    w = {name: tensor.to(dtype) for name, tensor in read_tensors(path).items()}
    hidden = [Mlp(w[f"layers.{k}.W"], w[f"layers.{k}.b"], torch.relu) for k in (0, 1)]
    last = Affine(w["layers.2.W"], w["layers.2.b"])
    return Chain(
        ("layers.0", "layers.1", "layers.2", "output"), (*hidden, last), embed=lambda x: x.to(dtype)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    named = os.environ.get("SUBSCAPE_DATA")
    parser.add_argument("--data", type=Path, default=named, required=named is None)
    parser.add_argument("--out", type=Path, default=Path("runs/mnist-mlp"))
    parser.add_argument("--tolerance", type=float, default=0.001)
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    folder = Path(arguments.data)
    images, labels = images_and_labels(folder / "mnist")
    # The test images come from two sources in halves, so they are mixed first.
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    used, scored = order.split(5000)
    weights = folder / "rib_mnist_mlp" / "model.safetensors"
    task = Task(
        chain(weights, torch.float64),
        images[used],
        Scored(images[scored], labels[scored], ACCURACY, batch_size=1000),
        scored_chain=chain(weights, torch.float32),
    )
    start = time.time()
    edges_stage(task, BasisConfig(last="raw"), arguments.out, progress=True)
    print(f"bases and edges of both: {time.time() - start:.1f} s")
    found = ablate_stage(task, arguments.out, arguments.tolerance, progress=True)
    print(f"accuracy {found['base']:.4f}, edges required within {found['tolerance']:g}:")
    for method in ("lib", "pca"):
        print(f"  {method.upper()} {[s['n_edges'] for s in found[method]['sections']]}")
    print(f"  total {found['total']}, ratio {found['ratio']:.3f}")
    modules = modules_stage(arguments.out)
    print({m: modules[m]["sizes"] for m in ("lib", "pca")})
    report_stage(arguments.out)


if __name__ == "__main__":
    main()
