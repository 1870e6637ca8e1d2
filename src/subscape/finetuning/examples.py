"""What is learned from: inputs, with labels where a loss wants them."""

from __future__ import annotations

from collections.abc import Iterable, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from subscape._checks import require
from subscape._hash import sha256_of
from subscape.data import Samples, as_samples, hashes, n_samples, take, to_device
from subscape.rows import generator_of, permutation

HELDOUT_SHARE = 0.1
"""Of the distinct samples, where no held-out data are given."""
LABELS = "labels"


@dataclass(frozen=True)
class Examples:
    """Inputs, and labels along the same axis."""

    inputs: Samples
    """What the model is called on."""
    labels: Tensor | None = None
    """What it is not."""

    def __len__(self) -> int:
        return n_samples(self.inputs)

    @property
    def given(self) -> Samples | tuple[Samples, Tensor]:
        """As a loss gets them: inputs, or (inputs, labels)."""
        return self.inputs if self.labels is None else (self.inputs, self.labels)

    def take(self, index: Tensor) -> Examples:
        """Some of them."""
        return Examples(
            take(self.inputs, index), None if self.labels is None else self.labels[index]
        )

    def to(self, device: torch.device) -> Examples:
        """Them on a device."""
        return Examples(
            to_device(self.inputs, device),
            None if self.labels is None else self.labels.to(device),
        )

    def batch(self, step: int, size: int, seed: int) -> Examples:
        """Those of a step: epoch after epoch, each in an order of its own."""
        n = len(self)
        size = min(size, n)
        places = range(step * size, (step + 1) * size)
        index = [int(permutation(n, seed, place // n)[place % n]) for place in places]
        return self.take(torch.tensor(index))

    def first(self, n: int) -> Examples:
        """The first n at most."""
        return self.take(torch.arange(min(n, len(self))))

    def digest(self) -> str:
        """A hash by which a run knows them again."""
        inputs = {"": self.inputs} if isinstance(self.inputs, Tensor) else self.inputs
        return sha256_of(inputs if self.labels is None else inputs | {"(labels)": self.labels})

    def parts(self, size: int) -> Iterable[Examples]:
        """All of them in order, so many at a time."""
        return (self.take(part) for part in torch.arange(len(self)).split(size))


def as_examples(data: Any) -> Examples:
    """Inputs as everywhere, or `(inputs, labels)`, a mapping with `labels`, or a data set or loader of these."""
    if isinstance(data, Examples):
        return data
    if isinstance(data, Dataset) and isinstance(data, Sized):
        data = torch.utils.data.DataLoader(data, batch_size=max(1, len(data)))
    if isinstance(data, Iterable) and not isinstance(data, (Tensor, tuple, dict, str, bytes)):
        data = data if hasattr(data, "keys") else _joined(list(data))
    labels = data[1] if isinstance(data, tuple) and len(data) == 2 else None
    inputs = as_samples(data)
    if labels is None and not isinstance(inputs, Tensor) and len(inputs) > 1:
        labels = inputs.get(LABELS)
        inputs = {name: values for name, values in inputs.items() if name != LABELS}
    if labels is None:
        return Examples(inputs)
    labels = torch.as_tensor(labels)
    n, got = n_samples(inputs), "none" if labels.dim() == 0 else len(labels)
    require(got == n, "data", f"a label for each of the {n} samples", f"{got} labels")
    return Examples(inputs, labels)


def set_aside(data: Examples, seed: int) -> tuple[Examples, Examples]:
    """Those to learn from, and those held out; copies of inputs go together."""
    digests = hashes(data.inputs)
    distinct = list(dict.fromkeys(digests))
    require(
        len(distinct) >= 2,
        "data",
        "at least 2 different samples, so that one can be held out",
        f"{len(distinct)}",
        "Give more, or held-out data by heldout=.",
    )
    n = max(1, round(HELDOUT_SHARE * len(distinct)))
    order = torch.randperm(len(distinct), generator=generator_of(seed, 17)).tolist()
    held = {distinct[place] for place in order[:n]}
    is_held = torch.tensor([digest in held for digest in digests])
    return data.take((~is_held).nonzero()[:, 0]), data.take(is_held.nonzero()[:, 0])


def _joined(batches: list[Any]) -> Any:
    """Batches of a loader as one; (inputs, labels) are a pair again."""
    pairs = [b for b in batches if isinstance(b, list | tuple) and len(b) == 2]
    if len(pairs) < len(batches) or not batches:
        return batches
    labels = torch.cat([torch.as_tensor(b[1]) for b in pairs])
    return as_samples([b[0] for b in pairs]), labels
