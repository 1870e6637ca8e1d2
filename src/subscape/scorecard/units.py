"""What activations a decomposed block has: its neurons, and its output."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from subscape._shapes import Float, Int
from subscape.data import take, to_device
from subscape.gradients import GradientSource

BATCH = 64
"""Samples of a forward pass."""
Activations = Float[Tensor, "_ _"]
"""[row, unit]."""


def units_of(
    source: GradientSource, samples: Int[Tensor, " sample"]
) -> tuple[Activations | None, Activations | None]:
    """Outputs of the modules that hold the decomposed parameters, and of the smallest that holds them all.

    None where they have no axis of rows; of images the mean over places.
    """
    model, names = source.target.model, source.target.names
    holders = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
    block = shared_module(names)
    wanted = [*holders, *([block] if block not in holders else [])]
    seen: dict[str, list[Tensor]] = {name: [] for name in wanted}
    outputs: list[Tensor] = []
    per_sample = source.draws.per_sample if source.kind == "token" else None
    with ExitStack() as stack, torch.no_grad():
        for name in filter(None, wanted):

            def keep(module: nn.Module, _: Any, output: Any, name: str = name) -> None:
                rows = as_rows(output, module, per_sample)
                if rows is not None:
                    seen[name].append(rows)

            handle = model.get_submodule(name).register_forward_hook(keep)
            stack.callback(handle.remove)
        for part in samples.split(BATCH):
            batch = to_device(take(source.data, part), source.target.like.device)
            made = as_rows(source.target.called(batch), model, per_sample)
            outputs += [] if made is None else [made]
    if "" in seen:
        seen[""] = outputs
    n_batches, place = -(-len(samples) // BATCH), source.rows_of(samples).place
    # A module that runs twice a pass has no output of its own for every row.
    whole = {
        name: torch.cat(parts)[place].float()
        for name, parts in seen.items()
        if len(parts) == n_batches
    }
    neurons = [whole[name] for name in holders if name in whole]
    return torch.cat(neurons, 1) if neurons else None, whole.get(block)


def shared_module(names: Sequence[str]) -> str:
    """The smallest module that holds all of these parameters; the empty name is the model itself."""
    parts = [name.split(".")[:-1] for name in names]
    shared: list[str] = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return ".".join(shared)


def as_rows(output: Any, module: nn.Module, per_sample: int | None) -> Activations | None:
    """A module's output by row; the first tensor of a tuple. None where it has no axis of rows."""
    first = output[0] if isinstance(output, tuple) and output else output
    if not isinstance(first, Tensor) or not first.is_floating_point() or first.dim() < 2:
        return None
    if per_sample is not None:
        right = first.dim() >= 3 and first.shape[1] == per_sample
        return first.flatten(0, 1).flatten(1) if right else None
    if first.dim() == 2:
        return first
    # Channels come first in images, features last in sequences.
    images = first.dim() > 3 or isinstance(module, nn.modules.conv._ConvNd)
    return first.flatten(2).mean(2) if images else first.mean(1)
