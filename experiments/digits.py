"""An MLP for handwritten digits, 784-100-100-10, and the 10,000 MNIST images that it was not trained on.

    SUBSCAPE_DATA=… subscape decompose experiments.digits:model --data experiments.digits:images \
        --parameters '2.*' --divergence kl --out runs/digits

`SUBSCAPE_DATA` names a folder with `rib_mnist_mlp/model.safetensors` and `mnist/t10k-*-ubyte.gz`.
"""

import gzip

import numpy
import torch
from resnet20 import data_folder
from safetensors.torch import load_file
from torch import Tensor, nn


def model() -> nn.Module:
    """The trained network; `2` is the map between the hidden layers."""
    made = nn.Sequential(
        nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10)
    )
    saved = load_file(data_folder() / "rib_mnist_mlp" / "model.safetensors")
    tensors = {}
    for i in range(3):
        tensors[f"{2 * i}.weight"] = saved[f"layers.{i}.W"].mT
        tensors[f"{2 * i}.bias"] = saved[f"layers.{i}.b"].flatten()
    made.load_state_dict(tensors)
    return made.eval()


def images() -> Tensor:
    """Pixels from 0 to 1, [sample, 784]."""
    return _read("images-idx3", 16).view(-1, 784).float() / 255


def labels() -> Tensor:
    """Their digits."""
    return _read("labels-idx1", 8).long()


def _read(name: str, header: int) -> Tensor:
    with gzip.open(data_folder() / "mnist" / f"t10k-{name}-ubyte.gz") as file:
        return torch.from_numpy(numpy.frombuffer(file.read(), numpy.uint8, offset=header).copy())
