"""Cotangents at a section's output: one for every position and direction, or random signs."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from subscape._checks import require

SPREAD = 2**20
"""Numbers in one chunk of cotangents or tangents, at most; more than a cache holds is slower."""


@dataclass(frozen=True)
class Signs:
    """Random signs in place of the sum over outputs; unbiased."""

    positions: int | None = 1
    """Draws over the output positions; None sums over all positions exactly."""
    directions: int | None = None
    """Draws over the output directions; None sums over all directions exactly."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("positions", "directions"):
            value = getattr(self, name)
            require(
                value is None or value >= 1, name, "a whole number of at least 1, or None", value
            )


EXACT = Signs(None, None)


def cotangents(
    out: Tensor, into_next: Tensor, signs: Signs, generator: torch.Generator
) -> Generator[Tensor]:
    """Chunks [probe, *output]; what they pull back adds up, squared, to the exact sum over outputs."""
    probes = list(_probes(out, into_next, signs, generator))
    per_chunk = max(1, SPREAD // out.numel())
    for first in range(0, len(probes), per_chunk):
        yield torch.stack([probe() for probe in probes[first : first + per_chunk]])


def _probes(
    out: Tensor, into_next: Tensor, signs: Signs, generator: torch.Generator
) -> Generator[Callable[[], Tensor]]:
    """One function per probe, so that only those of a chunk are ever held."""
    directions = into_next.mT.to(out)  # [next_direction, next_node]
    n_positions = out.shape[1] if out.dim() == 3 else 1
    places = range(n_positions) if signs.positions is None else [None] * signs.positions

    def drawn(shape: tuple[int, ...]) -> Tensor:
        return (torch.randint(0, 2, shape, generator=generator) * 2 - 1).to(out)

    def at(position: int | None, vector: Tensor) -> Tensor:
        full = vector.expand(out.shape)
        if position is None or out.dim() == 2:
            return full
        one = torch.zeros_like(out)
        one[:, position] = full[:, position]
        return one

    if signs.directions is not None:
        mixed = (*out.shape[:-1], len(directions))
        for position in places:
            for _ in range(signs.directions):
                yield lambda position=position: at(position, drawn(mixed) @ directions)
        return
    for position in places:
        for vector in directions:
            if position is None:
                yield lambda vector=vector: drawn((*out.shape[:-1], 1)) * vector
            else:
                yield lambda position=position, vector=vector: at(position, vector)
