"""Divergences D(f(x), y): one value per row between an output and its reference.

The ones here are those of arXiv 2504.00194 and of its authors' code. What depends on a divergence (the unit of
its values, which output is the mean of others, what in an output matters) is said by the divergence itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from subscape._checks import nearest, problem, require
from subscape._shapes import Float

Values = Callable[[Tensor, Tensor], Tensor]
"""`(outputs, reference) -> values`: both [row, *output], values [row]."""


@dataclass(frozen=True)
class Divergence:
    """A divergence between outputs, with what else there is to know of it."""

    name: str
    """Its name in settings and files."""
    values: Values
    """One value per row."""
    unit: str = "an unknown unit"
    """What the values are counted in, in words."""
    logits: bool = False
    """Whether outputs are logits, of which only differences matter."""
    is_distance: bool = True
    """Whether an output is nearest to itself, so that it can tell how far one has moved."""

    def __call__(self, outputs: Tensor, reference: Tensor) -> Tensor:
        """D of every row, as the function gives it."""
        return self.values(outputs, reference)

    def to_average(self, outputs: Float[Tensor, "row *output"]) -> Float[Tensor, "row *output"]:
        """Outputs as they can be averaged: of logits the distributions."""
        return outputs.softmax(-1) if self.logits else outputs

    def from_average(self, mean: Float[Tensor, "*output"]) -> Float[Tensor, "*output"]:
        """An average as an output again: of distributions the logarithm."""
        return mean.clamp_min(torch.finfo(mean.dtype).tiny).log() if self.logits else mean

    @property
    def of_changes(self) -> Divergence:
        """The divergence to say how far an output has moved: this one if it is a distance, otherwise `mse`."""
        return self if self.is_distance else MSE


def _mse(outputs: Tensor, reference: Tensor) -> Tensor:
    return (outputs - reference).square().flatten(1).mean(1)


def _half_reference_mse(outputs: Tensor, reference: Tensor) -> Tensor:
    return (outputs * (outputs - reference)).flatten(1).mean(1)


def _kl(outputs: Tensor, reference: Tensor) -> Tensor:
    target = torch.log_softmax(reference, -1)
    difference = target - torch.log_softmax(outputs, -1)
    return (target.exp() * difference).flatten(1).sum(1)


MSE = Divergence("mse", _mse, "squared output")
"""Mean squared error to the reference, the paper's divergence for toy models (sec. 4.1)."""
HALF_REFERENCE_MSE = Divergence(
    "half-reference-mse", _half_reference_mse, "squared output", is_distance=False
)
"""Mean of f·(f − r), what the authors' code computes for its toys. Its gradient is proportional to 2f − r, that
of a squared error to *half* the reference, so a row paired with itself is not null."""
KL = Divergence("kl", _kl, "nats", logits=True)
"""KL(reference ‖ prediction), both given as logits over the last axis (sec. 4.2)."""

DIVERGENCES = {d.name: d for d in (MSE, HALF_REFERENCE_MSE, KL)}
"""By name."""


def as_divergence(divergence: str | Divergence | Values) -> Divergence:
    """A key of `DIVERGENCES`, a divergence, or a function `(outputs, reference) -> [row]` of unknown unit."""
    if isinstance(divergence, Divergence):
        return divergence
    if isinstance(divergence, str):
        if divergence in DIVERGENCES:
            return DIVERGENCES[divergence]
    elif callable(divergence):
        name = getattr(divergence, "__qualname__", type(divergence).__qualname__)
        return Divergence(name, divergence)
    raise ValueError(
        problem(
            "divergence",
            f"one of {list(DIVERGENCES)}, a Divergence, or a function (outputs, reference) -> [row]",
            repr(divergence),
            nearest(str(divergence), DIVERGENCES),
        )
    )


def output_gradient(
    divergence: Divergence,
    outputs: Float[Tensor, "row *output"],
    reference: Float[Tensor, "row *output"],
) -> Float[Tensor, "row *output"]:
    """∂D/∂f of every row. With the output Jacobian J this gives the row gradient, ∇_W D = Jᵀ ∂D/∂f."""
    with torch.enable_grad():
        leaf = outputs.detach().requires_grad_(True)
        values = row_values(divergence, leaf, reference.detach())
        return torch.autograd.grad(values.sum(), leaf)[0]


def shape_or_type(value: Any) -> str:
    """What a user's function returned, in words."""
    return f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def row_values(
    divergence: Divergence,
    outputs: Float[Tensor, "row *output"],
    reference: Float[Tensor, "row *output"],
) -> Float[Tensor, " row"]:
    """D of every row; refuses what is not one value per row, or has lost the gradient of the outputs."""
    values = divergence(outputs, reference)
    require(
        isinstance(values, Tensor) and values.shape == outputs.shape[:1],
        "divergence",
        f"one value per row, shape {[outputs.shape[0]]}",
        shape_or_type(values),
        "Reduce over the output axes only, not over rows: x.flatten(1).mean(1).",
    )
    require(
        values.requires_grad or not outputs.requires_grad,
        "divergence",
        "values that depend on the outputs",
        "values without a gradient",
        "Do not detach or convert the outputs inside it.",
    )
    return values
