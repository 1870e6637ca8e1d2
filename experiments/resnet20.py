"""CIFAR ResNet-20 (He et al. 2015) and CIFAR-10 images, for decompositions of a convolutional network.

    SUBSCAPE_DATA=… subscape decompose experiments.resnet20:model --data experiments.resnet20:images \
        --parameters layer2.1 --divergence kl --rank 3 --out runs/resnet20

`SUBSCAPE_DATA` names a folder with `resnet20_cifar10/model.safetensors` and `cifar10/train_first2000.npz`.
"""

import os
from pathlib import Path

import numpy
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


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
