"""Look at the model's outputs before a run: their shape, and what would spoil the rows."""

from __future__ import annotations

import torch
from torch import Tensor

from subscape._checks import problem
from subscape.data import Samples, n_samples
from subscape.gradients.engines import row_outputs
from subscape.targets import Target


def probed_shape(target: Target, first: Samples, rows: str) -> tuple[int, ...]:
    """Shape of one sample's output, checked against the kind of rows.

    Args:
        target: the model and its parameters.
        first: two samples, or the only one.
        rows: `sample`, `token` or `every-token`.

    Returns:
        The shape without the sample axis.

    Raises:
        ValueError: if the model does not take the data, its outputs do not fit the rows, are not finite, or
            differ from call to call.
    """
    if rows not in ("sample", "token", "every-token"):
        raise ValueError(problem("rows", "'sample', 'token' or 'every-token'", repr(rows), ""))
    try:
        outputs = row_outputs(target, first, None)
    except (RuntimeError, IndexError) as error:
        by_name = {"": first} if isinstance(first, Tensor) else first
        shapes = ", ".join(f"{k} {list(v.shape)}".strip() for k, v in by_name.items())
        raise ValueError(
            problem(
                "data",
                "inputs that the model takes",
                f"shape {shapes}, at which it fails ({error})",
                "Try model(data[:2]), or pass outputs= to call it in another way.",
            )
        ) from error
    if rows != "sample" and outputs.dim() < 3:
        raise ValueError(
            problem(
                "rows",
                "outputs [sample, position, output] for token rows",
                f"outputs of shape {list(outputs.shape)}",
                "Use rows='sample', or an outputs function that keeps positions.",
            )
        )
    if outputs.shape[:1] != (n_samples(first),):
        raise ValueError(
            problem(
                "outputs",
                f"one entry per sample along the first axis ({n_samples(first)})",
                f"shape {list(outputs.shape)}",
                "Do not reduce over samples in the outputs function.",
            )
        )
    if outputs.dim() < 2:
        raise ValueError(
            problem(
                "outputs",
                "[sample, output] or more axes",
                f"shape {list(outputs.shape)}",
                "Give single numbers an axis of their own: outputs=lambda model, batch: "
                "model(batch)[:, None].",
            )
        )
    if not torch.isfinite(outputs).all():
        raise ValueError(
            problem("outputs", "finite values", "NaN or infinite ones", "Check inputs and model.")
        )
    if not torch.equal(outputs, row_outputs(target, first, None)):
        raise ValueError(
            problem(
                "model",
                "the same outputs for the same inputs",
                "outputs that differ from one call to the next",
                "Call model.eval(), and switch off what draws at random in its forward.",
            )
        )
    return tuple(outputs.shape[1:])
