"""What is told of a training while it runs, and when it is done."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, runtime_checkable

import torch

from subscape.subnetworks.decomposition import Decomposition


@runtime_checkable
class Callback(Protocol):
    """What `decompose(..., callbacks=[...])` takes; see `training.loggers` for those that are there."""

    def on_step(self, step: int, figures: Mapping[str, float]) -> None:
        """After every `log_every` steps: FVU of the batch, L0 and share of silent subnetworks, by name.

        Of restarts those of the one with the lowest FVU.
        """

    def on_end(self, result: Decomposition) -> None:
        """At the end, with the decomposition and its figures on held-out rows."""


_TOLD: ContextVar[tuple[Callback, ...]] = ContextVar("subscape_callbacks", default=())


@contextmanager
def telling(callbacks: Sequence[Callback]) -> Generator[None]:
    """Within, these are told of the steps of a training. A context, as trainings are nested in many layers."""
    group = torch.distributed.is_available() and torch.distributed.is_initialized()
    first = not group or torch.distributed.get_rank() == 0
    before = _TOLD.set(tuple(callbacks) if first else ())
    try:
        yield
    finally:
        _TOLD.reset(before)


def tell_step(step: int, fvu: Sequence[float], **figures: Sequence[float]) -> None:
    """Tell of a step; numbers are by restart."""
    best = min(range(len(fvu)), key=fvu.__getitem__)
    for each in _TOLD.get():
        each.on_step(step, {name: v[best] for name, v in ({"fvu": fvu} | figures).items()})


def tell_end(result: Decomposition) -> None:
    """Tell of the result."""
    for each in _TOLD.get():
        each.on_end(result)
