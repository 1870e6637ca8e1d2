"""The language model, its text and its decompositions, as all experiments on `stories260k` share them."""

from pathlib import Path
from typing import Any

from geometry_measures import ATTENTION, Text, decomposed
from torch import Tensor

from subscape import Decomposition, GradientSource
from subscape.lowrank import Stack
from subscape.measures import random_like

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


def random_pushes(result: Decomposition, seed: int = 0) -> Stack:
    """Random directions to push, with the norms and ranks of a decomposition's."""
    return random_like(result.directions, seed)


def along(directions: Stack, coefficients: Tensor) -> dict[str, Tensor]:
    """Σ_k c_k d_k by parameter name."""
    parts = (coefficients @ directions.flat()).split([t.numel for t in directions.layout.tensors])
    return {
        t.name: part.view(t.shape) for t, part in zip(directions.layout.tensors, parts, strict=True)
    }
