"""Where along the path from the baseline to the activations a Jacobian is taken, and with what weight."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from subscape._checks import require
from subscape._shapes import Float

Baseline = Literal["mean", "zero"]
"""Start of the path: the mean activations, or zero (as published; biases inside a section stay)."""


class Quadrature(NamedTuple):
    """Points on [0, 1] and their weights, which sum to 1."""

    points: tuple[float, ...]
    weights: tuple[float, ...]

    def mean(self, values: Iterable[Tensor]) -> Tensor:
        """The mean over the path of what has these values at its points."""
        total = sum(w * v for w, v in zip(self.weights, values, strict=True))
        assert isinstance(total, Tensor)
        return total


GRADIENT = Quadrature((1.0,), (1.0,))
"""The Jacobian at the activations themselves: the published choice for all results."""


def gauss_legendre(n_points: int) -> Quadrature:
    """Points from 0 to 1 and their weights, exact for polynomials up to degree 2 n - 1."""
    require(n_points >= 1, "n_points", "a whole number of at least 1", n_points)
    points, weights = np.polynomial.legendre.leggauss(n_points)
    return Quadrature(tuple(((points + 1) / 2).tolist()), tuple((weights / 2).tolist()))


def path(
    values: Float[Tensor, "..."],
    mean: Float[Tensor, " node"],
    quadrature: Quadrature,
    baseline: Baseline,
) -> list[Float[Tensor, "..."]]:
    """Points between the baseline and the activations."""
    start = mean.to(values) if baseline == "mean" else torch.zeros_like(mean).to(values)
    # start + 1 (values - start) would round the activations themselves.
    return [values if a == 1 else start + a * (values - start) for a in quadrature.points]
