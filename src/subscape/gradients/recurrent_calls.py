"""Calls of recurrent layers with samples first, whatever the layout: steps first, packed, states by layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from subscape._shapes import Float, Int

Turn = Callable[[Tensor], Tensor]


class Recurrent(NamedTuple):
    """What a recurrent layer was given."""

    inputs: Float[Tensor, "row step input"]
    """Zero behind the end of a packed sequence."""
    lengths: Int[Tensor, " row"] | None
    """Of packed sequences."""
    states: list[Float[Tensor, "row layer hidden"]]
    """Those it starts from; none where it was given none."""


def as_it_is(leaf: Tensor) -> Tensor:
    """No turn."""
    return leaf


def given_to(module: nn.RNNBase, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Recurrent | None:
    """What a call was given; None of a single sequence without a sample axis."""
    given = args[0] if args else kwargs["input"]
    first = args[1] if len(args) > 1 else kwargs.get("hx")
    states = [] if first is None else [first] if isinstance(first, Tensor) else list(first)
    states = [state.transpose(0, 1) for state in states]
    if isinstance(given, PackedSequence):
        row, _ = _places(given)
        return Recurrent(_unpacked(given, given.data.detach()), row.bincount(), states)
    if given.dim() != 3:
        return None
    return Recurrent(given if module.batch_first else given.transpose(0, 1), None, states)


def turns_of(module: nn.RNNBase, output: tuple[Any, Any], place: int) -> tuple[Turn, Turn]:
    """How a leaf of the output is laid out with samples first, and how it is laid out again as it was."""
    if place == 0 and isinstance(output[0], PackedSequence):
        packed = output[0]
        return lambda leaf: _unpacked(packed, leaf), lambda padded: padded[_places(packed)]
    if place == 0 and module.batch_first:
        return as_it_is, as_it_is
    return _swapped, _swapped


def _swapped(leaf: Tensor) -> Tensor:
    return leaf.transpose(0, 1) if leaf.dim() == 3 else leaf


def _places(packed: PackedSequence) -> tuple[Int[Tensor, " entry"], Int[Tensor, " entry"]]:
    """Row and step of every entry of a packed sequence."""
    sizes, device = packed.batch_sizes, packed.data.device
    order = packed.sorted_indices
    order = torch.arange(int(sizes[0]), device=device) if order is None else order
    steps = torch.arange(len(sizes)).repeat_interleave(sizes).to(device)
    return torch.cat([order[:n] for n in sizes.tolist()]), steps


def _unpacked(packed: PackedSequence, data: Float[Tensor, "entry size"]) -> Float[Tensor, "..."]:
    shape = (int(packed.batch_sizes[0]), len(packed.batch_sizes), data.shape[1])
    return data.new_zeros(shape).index_put(_places(packed), data)
