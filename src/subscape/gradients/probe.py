"""Look at the model's outputs before a run: their shape, and what would spoil the rows."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import get_args

import torch
from torch import Tensor, nn

from subscape._checks import is_worded, out_of_memory, problem, require
from subscape.data import Samples, n_samples, take
from subscape.rows import RowKind
from subscape.targets import Target

ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest difference between a sample's outputs in batches of two and of three, relative to the largest."""


def probed_outputs(target: Target, first: Samples, kind: RowKind) -> Tensor:
    """The outputs of a few samples, without gradient, refused where they do not fit the kind of rows."""
    kinds = get_args(RowKind)
    require(kind in kinds, "rows", f"one of {list(kinds)}", repr(kind))
    try:
        with torch.no_grad():
            outputs = target.outputs(take(first, slice(None)))
    except Exception as error:
        if is_worded(error) or out_of_memory(error):
            raise
        by_name = {"": first} if isinstance(first, Tensor) else first
        shapes = ", ".join(f"{k} {list(v.shape)}".strip() for k, v in by_name.items())
        raise ValueError(
            problem(
                "data",
                "inputs that the model takes",
                f"shape {shapes}, at which it fails ({type(error).__name__}: {error})",
                "Try model(data[:2]), or pass outputs= to call it in another way.",
            )
        ) from error
    numbers = isinstance(outputs, Tensor) and outputs.is_floating_point()
    require(
        numbers,
        "outputs",
        "a tensor of floating-point numbers, which have gradients",
        f"{outputs.dtype}" if isinstance(outputs, Tensor) else type(outputs).__name__,
        "Return scores rather than classes, or parts of complex numbers: outputs=lambda model, batch: ….",
        error=ValueError if isinstance(outputs, Tensor) else TypeError,
    )
    require(
        kind == "sample" or outputs.dim() >= 3,
        "rows",
        "outputs [sample, position, output] for token rows",
        f"outputs of shape {list(outputs.shape)}",
        "Use rows='sample', or an outputs function that keeps positions.",
    )
    require(
        outputs.shape[:1] == (n_samples(first),),
        "outputs",
        f"one entry per sample along the first axis ({n_samples(first)})",
        f"shape {list(outputs.shape)}",
        "Do not reduce over samples in the outputs function.",
    )
    require(
        outputs.dim() >= 2,
        "outputs",
        "[sample, output] or more axes",
        f"shape {list(outputs.shape)}",
        (
            "Give single numbers an axis of their own: outputs=lambda model, batch: "
            "model(batch)[:, None]."
        ),
    )
    require(outputs.numel() > 0, "outputs", "at least one number", f"{list(outputs.shape)}")
    require(
        bool(torch.isfinite(outputs).all()),
        "outputs",
        "finite values",
        "NaN or infinite ones",
        "Check inputs and model.",
    )
    return outputs


@contextmanager
def unchanged_buffers(model: nn.Module) -> Generator[None]:
    """Refuse a model whose forward changes its buffers, and put them back."""
    before = {name: (b, b.clone()) for name, b in model.named_buffers()}
    try:
        yield
    finally:
        now = dict(model.named_buffers())
        changed = [
            name
            for name, (buffer, old) in before.items()
            if now.get(name) is not buffer or not torch.equal(buffer.nan_to_num(), old.nan_to_num())
        ]
        for name in changed:
            buffer, old = before[name]
            owner, _, local = name.rpartition(".")
            model.get_submodule(owner)._buffers[local] = buffer
            with torch.no_grad():
                buffer.copy_(old)
    require(
        not changed,
        "model",
        "a forward that leaves the model's buffers as they are",
        f"changes of {changed[:3]}{' …' if len(changed) > 3 else ''}",
        "Call model.eval() first: running statistics and power iterations stop then.",
    )


def check_rows_alone(target: Target, inputs: Samples, few: Tensor, many: Tensor) -> None:
    """Refuse a model whose outputs for two samples change with a third one beside them, or by chance."""
    scale = float(few.abs().max()) or 1.0
    if float((many[:2].detach() - few).abs().max()) <= ROUNDING.get(few.dtype, 1e-4) * scale:
        return
    with torch.no_grad():
        again = target.outputs(take(inputs, slice(0, 2)))
    require(
        torch.equal(few, again),
        "model",
        "the same outputs for the same inputs",
        "outputs that differ from one call to the next",
        "Call model.eval(), and switch off what draws at random in its forward.",
    )
    raise ValueError(
        problem(
            "model",
            "outputs of a sample that do not depend on the other samples of its batch",
            "other outputs of two samples when a third is beside them",
            "Leave out what is computed over samples: means, norms or sorting along the first axis.",
        )
    )
