"""Where along the path from the baseline to the activations a Jacobian is taken, and with what weight."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from subscape._checks import require

Baseline = Literal["mean", "zero"]
"""Start of the path: the mean activations, or zero (as published; biases inside a section stay)."""


class Quadrature(NamedTuple):
    """Points on [0, 1] and their weights, which sum to 1."""

    points: tuple[float, ...]
    weights: tuple[float, ...]


GRADIENT = Quadrature((1.0,), (1.0,))
"""The Jacobian at the activations themselves: the published choice for all results."""


def gauss_legendre(n_points: int) -> Quadrature:
    """Points from 0 to 1 and their weights, exact for polynomials up to degree 2 n - 1."""
    require(n_points >= 1, "n_points", "a whole number of at least 1", n_points)
    points, weights = np.polynomial.legendre.leggauss(n_points)
    return Quadrature(
        tuple(float(p) for p in (points + 1) / 2), tuple(float(w) for w in weights / 2)
    )
