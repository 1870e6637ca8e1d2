"""Divergences D(f(x), y): one value per row between an output and its reference.

A divergence is any callable `(outputs, reference) -> values` with outputs and reference of shape
[row, *output] and values of shape [row]. The ones here are those of arXiv 2504.00194 and of its
authors' code; `resolve` also takes a user's callable.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from subscape._checks import nearest, problem
from subscape._shapes import Float

Divergence = Callable[[Tensor, Tensor], Tensor]


def mse(
    outputs: Float[Tensor, "row *output"], reference: Float[Tensor, "row *output"]
) -> Float[Tensor, " row"]:
    """Mean squared error to the reference, the paper's divergence for toy models (sec. 4.1)."""
    return (outputs - reference).square().flatten(1).mean(1)


def half_reference_mse(
    outputs: Float[Tensor, "row *output"], reference: Float[Tensor, "row *output"]
) -> Float[Tensor, " row"]:
    """Mean of f·(f − r), what the authors' code computes for its toys.

    Its gradient is proportional to 2f − r, that of a squared error to *half* the reference, so a row
    paired with itself is not null. For reproduction of the published toy figures.

    Args:
        outputs: f(x_i).
        reference: y_r.

    Returns:
        One value per row.
    """
    return (outputs * (outputs - reference)).flatten(1).mean(1)


def kl(
    outputs: Float[Tensor, "row *output"], reference: Float[Tensor, "row *output"]
) -> Float[Tensor, " row"]:
    """KL(reference ‖ prediction) in nats, both given as logits over the last axis (sec. 4.2)."""
    target = torch.log_softmax(reference, -1)
    difference = target - torch.log_softmax(outputs, -1)
    return (target.exp() * difference).flatten(1).sum(1)


NAMED: dict[str, Divergence] = {"mse": mse, "half-reference-mse": half_reference_mse, "kl": kl}


def resolve(divergence: str | Divergence) -> Divergence:
    """The divergence of that name, or the callable itself.

    Args:
        divergence: a key of `NAMED`, or a callable `(outputs, reference) -> [row]`.

    Returns:
        The callable.

    Raises:
        ValueError: if the name is unknown.
    """
    if callable(divergence):
        return divergence
    if divergence not in NAMED:
        raise ValueError(
            problem(
                "divergence",
                f"one of {list(NAMED)} or a callable (outputs, reference) -> [row]",
                repr(divergence),
                nearest(divergence, NAMED),
            )
        )
    return NAMED[divergence]


def output_gradient(
    divergence: Divergence,
    outputs: Float[Tensor, "row *output"],
    reference: Float[Tensor, "row *output"],
) -> Float[Tensor, "row *output"]:
    """∂D/∂f of every row. With the output Jacobian J this gives the row gradient, ∇_W D = Jᵀ ∂D/∂f.

    Args:
        divergence: one value per row.
        outputs: f(x_i).
        reference: y_r.

    Returns:
        The derivative of every row's divergence with respect to its own output.

    Raises:
        ValueError: if the divergence does not return one value per row.
    """
    with torch.enable_grad():
        leaf = outputs.detach().requires_grad_(True)
        values = row_values(divergence, leaf, reference.detach())
        return torch.autograd.grad(values.sum(), leaf)[0]


def row_values(
    divergence: Divergence,
    outputs: Float[Tensor, "row *output"],
    reference: Float[Tensor, "row *output"],
) -> Float[Tensor, " row"]:
    """D of every row, checked.

    Args:
        divergence: one value per row.
        outputs: f(x_i).
        reference: y_r.

    Returns:
        The values.

    Raises:
        ValueError: if they are not one per row, or lose the gradient of outputs that have one.
    """
    values = divergence(outputs, reference)
    if not isinstance(values, Tensor) or values.shape != outputs.shape[:1]:
        raise ValueError(
            problem(
                "divergence",
                f"one value per row, shape {[outputs.shape[0]]}",
                f"shape {list(values.shape)}"
                if isinstance(values, Tensor)
                else type(values).__name__,
                "Reduce over the output axes only, not over rows: x.flatten(1).mean(1).",
            )
        )
    if outputs.requires_grad and not values.requires_grad:
        raise ValueError(
            problem(
                "divergence",
                "values that depend on the outputs",
                "values without a gradient",
                "Do not detach or convert the outputs inside it.",
            )
        )
    return values
