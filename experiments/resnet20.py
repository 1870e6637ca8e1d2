"""CIFAR ResNet-20 (He et al. 2015) and CIFAR-10 images, for decompositions of a convolutional network.

    SUBSCAPE_DATA=… subscape decompose experiments.resnet20:model --data experiments.resnet20:images \
        --parameters layer2.1 --divergence kl --rank 3 --out runs/resnet20

`SUBSCAPE_DATA` names a folder with `resnet20_cifar10/model.safetensors` and `cifar10/train_first2000.npz`.
Run as a script it decomposes the block under both recipes and asks of every subnetwork: of the 10 held-out images
at which its code is largest, do at least 8 show one class? And how well does its code tell it from the rest
(AUROC)? Beside it the same for random directions of the same norms and ranks, for principal directions and k-means
centres of the training gradients as the recipe measures them, and (AUROC) for the channels of the block's output.
1,500 images are trained on; some four minutes of processor time a recipe.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors.torch import load_file
from sklearn.cluster import KMeans
from torch import Tensor, nn

import subscape
from subscape import Decomposition, GradientSource
from subscape._io import write_json
from subscape.measures import auroc
from subscape.measures.oracle import oracle
from subscape.rows import generator_of
from subscape.scorecard.chance import chance_of

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
N_TRAINED, N_SUBNETWORKS, N_TOP, ENOUGH, N_DRAWS = 1_500, 100, 10, 8, 10


class Block(nn.Module):
    """Two convolutions and a shortcut, which pads channels where the image is halved (option A)."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.padding = (n_out - n_in) // 2
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        return (y + nn.functional.pad(shortcut, (0, 0, 0, 0, self.padding, self.padding))).relu()


class ResNet20(nn.Module):
    """Three stages of three blocks; logits of ten classes from normalised images [sample, 3, 32, 32]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(Block(16, 16, 1) for _ in range(3)))
        self.layer2 = nn.Sequential(Block(16, 32, 2), Block(32, 32, 1), Block(32, 32, 1))
        self.layer3 = nn.Sequential(Block(32, 64, 2), Block(64, 64, 1), Block(64, 64, 1))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def data_folder() -> Path:
    """The folder of real models and data."""
    return Path(os.environ["SUBSCAPE_DATA"])


def model() -> nn.Module:
    """The trained network."""
    made = ResNet20()
    tensors = load_file(data_folder() / "resnet20_cifar10" / "model.safetensors")
    missing = made.load_state_dict(tensors, strict=False).missing_keys
    assert all(name.endswith("num_batches_tracked") for name in missing), missing
    return made.eval()


def images() -> Tensor:
    """2,000 training images, normalised."""
    with numpy.load(data_folder() / "cifar10" / "train_first2000.npz") as arrays:
        pixels = torch.from_numpy(arrays["images"])
    x = pixels.permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def labels() -> Tensor:
    """Their classes."""
    with numpy.load(data_folder() / "cifar10" / "train_first2000.npz") as arrays:
        return torch.from_numpy(arrays["labels"]).long()


def in_parts(source: GradientSource, draw: int = 0) -> list[Any]:
    """Row gradients of all samples, as the decomposition weighs and measures them."""
    parts = torch.arange(len(source)).split(64)
    return [source.gradients(source.rows_of(part, draw=draw)) for part in parts]


def codes(result: Decomposition, source: GradientSource) -> Tensor:
    """Mean size of every coefficient over references [sample, subnetwork]; one reference where it is fixed."""
    draws = range(N_DRAWS if result.reference is None else 1)
    found = [torch.cat([result.coefficients(g) for g in in_parts(source, d)]).abs() for d in draws]
    return torch.stack(found).mean(0)


def by_class(values: Tensor, classes: Tensor) -> dict[str, float]:
    """Share of columns whose top images agree on a class; mean AUROC of columns for the class of most of them."""
    top = classes[values.abs().topk(N_TOP, dim=0).indices]
    most, class_of = torch.nn.functional.one_hot(top, 10).sum(0).max(1)
    own = [
        auroc(value[classes == c], value[classes != c])
        for value, c in zip(values.abs().mT, class_of, strict=True)
    ]
    agree = (most >= ENOUGH).double().mean()
    return {"agree": float(agree), "auroc": sum(own) / len(own)}


def channels(network: nn.Module, x: Tensor) -> Tensor:
    """Mean of every channel of the block's output."""
    seen: list[Tensor] = []
    block = network.get_submodule("layer2.1")
    hook = block.register_forward_hook(lambda _, __, output: seen.append(output.mean((2, 3))))
    with torch.no_grad():
        network(x)
    hook.remove()
    return seen[0]


def decomposed(recipe: str, steps: int, out: Path) -> dict[str, Any]:
    """All figures of one recipe."""
    network, order = model(), torch.randperm(2_000, generator=generator_of(0, 31))
    trained, held = images()[order[:N_TRAINED]], images()[order[N_TRAINED:]]
    classes = labels()[order[N_TRAINED:]]
    result = subscape.decompose(
        network,
        trained,
        heldout=held,
        parameters="layer2.1",
        divergence="kl",
        recipe=recipe,
        n_subnetworks=N_SUBNETWORKS,
        l0=10,
        rank={"*.conv*": (3, 3, 3, 3), "*": 1},  # a tenth of the channels, kernels whole
        steps=steps,
        batch_size=128,
        learning_rate=0.004,
        out=out,
    )
    source = result.source(network, held)
    of_training = torch.cat([g.flat for g in in_parts(result.source(network, trained))])
    rows = torch.cat([g.flat for g in in_parts(source)])
    principal = torch.linalg.svd(of_training, full_matrices=False).Vh[:N_SUBNETWORKS]
    units = of_training / of_training.norm(dim=1, keepdim=True)
    centres = KMeans(N_SUBNETWORKS, n_init=1, random_state=0).fit(units.numpy()).cluster_centers_
    l0 = result.metrics["l0"]
    return {
        **{name: result.metrics[name] for name in ("fvu", "l0", "dead", "seconds")},
        "fvu_first_principal": float(
            1 - (rows @ principal[: round(l0)].mT).square().sum() / rows.square().sum()
        ),
        "fvu_principal_best_codes": oracle(rows, principal, l0).fvu,
        "subnetworks": by_class(codes(result, source), classes),
        "random": by_class(codes(chance_of(result), source), classes),
        "principal": by_class(rows @ principal.mT, classes),
        "k-means": by_class(rows @ torch.from_numpy(centres).mT, classes),
        "channels": by_class(channels(network, held), classes),
    }


def main() -> None:
    """Both recipes, as JSON."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path("runs/resnet20"))
    arguments = parser.parse_args()
    figures = {}
    for recipe in ("whitened", "published"):
        figures[recipe] = decomposed(recipe, arguments.steps, arguments.out / recipe)
        print(json.dumps({recipe: figures[recipe]}), flush=True)
    write_json(arguments.out / "figures.json", figures)


if __name__ == "__main__":
    main()
