"""The language model, its text and its decompositions, as all experiments on `stories260k` share them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from geometry_measures import ATTENTION, Text, decomposed
from torch import Tensor

from subscape import Decomposition, GradientSource
from subscape.data import take, to_device
from subscape.lowrank import Stack

OPTIONS: dict[str, Any] = {
    "parameters": ATTENTION,
    "n_subnetworks": 100,
    "l0": 5.0,
    "rank": 0.25,
    "batch_size": 256,
    "learning_rate": 0.006,
}
"""Our recipe for language models, which is that of the README."""


def base(
    folder: Path, text: Text, *, steps: int, seed: int = 0, **options: Any
) -> tuple[Decomposition, GradientSource]:
    """The attention block decomposed, once for all experiments, and rows that were not trained on."""
    name = "-".join(["attention", str(steps), str(seed), *(f"{k}-{v}" for k, v in options.items())])
    settings = OPTIONS | {"steps": steps} | options
    result, _ = decomposed(folder / name, text.model, text.trained, text.held, seed, settings)
    return result, result.source(text.model, text.held)


def along(directions: Stack, coefficients: Tensor) -> dict[str, Tensor]:
    """Σ_k c_k d_k by parameter name."""
    parts = (coefficients @ directions.flat()).split([t.numel for t in directions.layout.tensors])
    return {
        t.name: part.view(t.shape) for t, part in zip(directions.layout.tensors, parts, strict=True)
    }


def output_of_row(
    source: GradientSource, directions: Stack, row: int, per_sample: int = 1
) -> Callable[[Tensor], Tensor]:
    """From coefficients to the output of one row [1, output] of a model moved along Σ_k c_k d_k."""
    target = source.target
    inputs = to_device(take(source.data, torch.tensor([row // per_sample])), target.like.device)

    def moved(coefficients: Tensor) -> Tensor:
        change = along(directions, coefficients)
        new = {name: target.parameters[name] + by for name, by in change.items()}
        return target.outputs(inputs, new).reshape(per_sample, -1)[[row % per_sample]]

    return moved
