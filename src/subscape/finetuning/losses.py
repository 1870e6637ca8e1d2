"""What is to become small: losses `(outputs, batch) -> scalar`, by name or of one's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss

from subscape._checks import nearest, problem, require
from subscape._shapes import Float
from subscape.data import Samples
from subscape.divergences import Divergence, shape_or_type

Loss = Callable[[Tensor, Any], Tensor]
"""`(outputs, batch) -> scalar`: a mean over samples; a batch has the form of the data, with labels."""


def next_token(outputs: Float[Tensor, "sample position token"], batch: Any) -> Tensor:
    """Cross entropy of every next token that is no padding; of `labels`, where there are some."""
    inputs, labels = batch if isinstance(batch, tuple) else (batch, None)
    ids = inputs if isinstance(inputs, Tensor) else inputs["input_ids"]
    wanted = ids if labels is None else labels
    mask = None if isinstance(inputs, Tensor) else inputs.get("attention_mask")
    if mask is not None:
        wanted = wanted.masked_fill(mask == 0, -100)
    return cross_entropy(outputs[:, :-1].flatten(0, 1).float(), wanted[:, 1:].flatten())


def classes(outputs: Float[Tensor, "sample output"], batch: Any) -> Tensor:
    """Cross entropy of the labels, a class a sample."""
    return cross_entropy(outputs, _labels(batch, "cross-entropy"))


def squared_error(outputs: Float[Tensor, "sample *output"], batch: Any) -> Tensor:
    """Mean squared error to the labels, an output a sample."""
    labels = _labels(batch, "mse")
    expected, got = f"labels of the outputs' shape {list(outputs.shape)}", f"{list(labels.shape)}"
    require(labels.shape == outputs.shape, "data", expected, got)
    return mse_loss(outputs, labels)


def _labels(batch: Any, name: str) -> Tensor:
    labeled = isinstance(batch, tuple)
    expected, repair = f"(inputs, labels) for the loss {name!r}", "Give both, as a tuple."
    require(labeled, "data", expected, "inputs without labels", repair)
    return batch[1]


LOSSES: dict[str, Loss] = {
    "next-token": next_token,
    "cross-entropy": classes,
    "mse": squared_error,
}
"""By name."""


def as_loss(loss: str | Loss | None, *, language: bool) -> Loss:
    """The loss of that name, or the function; of a causal language model the next token's by default."""
    if callable(loss):
        return loss
    if loss is None and language:
        return next_token
    if loss is None or loss not in LOSSES:
        raise ValueError(
            problem(
                "loss",
                f"one of {list(LOSSES)}, or a function (outputs, batch) -> scalar",
                "none, and the model is no causal language model" if loss is None else repr(loss),
                "Say what is to become small." if loss is None else nearest(loss, LOSSES),
            )
        )
    return LOSSES[loss]


def name_of(loss: Loss) -> str:
    """The key of a loss, or the name of the function."""
    known = [name for name, function in LOSSES.items() if function is loss]
    return known[0] if known else getattr(loss, "__qualname__", type(loss).__qualname__)


def value_of(loss: Loss, outputs: Tensor, batch: Any) -> Tensor:
    """The loss; refuses what is not one number with a gradient."""
    value = loss(outputs, batch)
    require(
        isinstance(value, Tensor) and value.numel() == 1,
        "loss",
        "a function that returns one number",
        shape_or_type(value),
        "Take the mean over samples.",
    )
    require(
        value.requires_grad or not outputs.requires_grad,
        "loss",
        "a number that depends on the outputs",
        "one without a gradient",
        "Do not detach or convert the outputs inside it.",
    )
    return value.reshape(())


def movement(
    divergence: Divergence, outputs: Tensor, original: Tensor, inputs: Samples
) -> Float[Tensor, " row"]:
    """How far every row of outputs is from the original model's; of sequences every position, but padding."""
    mask = None if isinstance(inputs, Tensor) else inputs.get("attention_mask")
    if mask is not None and mask.shape == outputs.shape[:2]:
        outputs, original = outputs[mask.bool()], original[mask.bool()]
    elif outputs.dim() == 3:
        outputs, original = outputs.flatten(0, 1), original.flatten(0, 1)
    if outputs.dtype in (torch.float16, torch.bfloat16):
        outputs, original = outputs.float(), original.float()
    return divergence(outputs, original)


def is_language_model(outputs: Tensor, inputs: Samples) -> bool:
    """Whether these are logits at every position of token ids."""
    ids = inputs if isinstance(inputs, Tensor) else inputs.get("input_ids", torch.empty(0))
    whole = not ids.is_floating_point() and ids.dim() == 2
    return whole and outputs.dim() == 3 and outputs.shape[:2] == ids.shape
