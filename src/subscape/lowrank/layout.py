"""Which pieces (core, factors) a low-rank direction is made of, tensor by tensor.

A direction in parameter space is one tensor per target parameter, each kept in a low-rank form:

- Tucker: a core of shape (r_1, ..., r_N) and a factor (d_i, r_i) per mode; a mode with r_i = d_i is
  kept whole and needs no factor, so a vector is its own core;
- CP: one factor (d_i, r) per mode and no core.

All pieces of all tensors lie in one flat vector, so that an optimiser sees a single tensor. This file
knows the shapes only; `stack` holds the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Literal

from subscape._checks import problem, require

Form = Literal["tucker", "cp"]
Rank = int | float
RankChoice = Rank | Sequence[int]


@dataclass(frozen=True)
class TensorLayout:
    """The pieces of one target tensor."""

    name: str
    """Name of the parameter, as in `named_parameters()`."""
    shape: tuple[int, ...]
    """Shape of the parameter."""
    form: Form
    """`tucker` or `cp`."""
    ranks: tuple[int, ...]
    """One rank per mode; for CP all are equal."""

    @cached_property
    def numel(self) -> int:
        """Number of entries of the parameter."""
        return math.prod(self.shape)

    @cached_property
    def piece_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the pieces: Tucker has the core first, CP has no core."""
        factors = [(d, r) for d, r in zip(self.shape, self.ranks, strict=True)]
        if self.form == "cp":
            return factors
        return [self.ranks] + [(d, r) for d, r in factors if r < d]

    @cached_property
    def factored_modes(self) -> list[int]:
        """Modes that have a factor, in the order of the factors in `piece_shapes`."""
        if self.form == "cp":
            return list(range(len(self.shape)))
        return [i for i, (d, r) in enumerate(zip(self.shape, self.ranks, strict=True)) if r < d]


@dataclass(frozen=True)
class Layout:
    """The pieces of a direction over all target tensors, in model order."""

    tensors: tuple[TensorLayout, ...]

    @cached_property
    def names(self) -> list[str]:
        """Names of the parameters, in model order."""
        return [t.name for t in self.tensors]

    @cached_property
    def n_parameters(self) -> int:
        """Length of a dense, flattened direction."""
        return sum(t.numel for t in self.tensors)

    @cached_property
    def sizes(self) -> list[int]:
        """Length of every piece in the flat vector, tensor after tensor."""
        return [math.prod(shape) for t in self.tensors for shape in t.piece_shapes]

    @cached_property
    def size(self) -> int:
        """Length of the flat vector of all pieces."""
        return sum(self.sizes)


def make_layout(
    shapes: Mapping[str, Sequence[int]],
    rank: RankChoice | Mapping[str, RankChoice],
    form: Form = "tucker",
) -> Layout:
    """Lay out low-rank directions over the tensors in `shapes`.

    Args:
        shapes: shape of every target parameter, in model order.
        rank: an integer (the rank of every mode, at most its dimension), a fraction in (0, 1) of each
            dimension (rounded, at least 1), a sequence with one integer per mode, or a mapping from
            globs over parameter names to any of these (the first glob that matches counts). An integer
            or fraction leaves vectors whole.
        form: `tucker` or `cp`.

    Raises:
        ValueError: if a rank is not positive, is larger than its dimension, or a tensor has none.
    """
    require(form in ("tucker", "cp"), "form", "'tucker' or 'cp'", repr(form), "Choose one of them.")
    tensors = []
    for name, shape in shapes.items():
        choice = _choice(name, rank)
        ranks = _ranks(name, tuple(shape), choice, form)
        tensors.append(
            TensorLayout(name, tuple(shape), "tucker" if len(shape) < 2 else form, ranks)
        )
    return Layout(tuple(tensors))


def _choice(name: str, rank: RankChoice | Mapping[str, RankChoice]) -> RankChoice:
    if not isinstance(rank, Mapping):
        return rank
    for pattern, choice in rank.items():
        if fnmatchcase(name, pattern):
            return choice
    raise ValueError(
        problem(
            "rank",
            f"a rank for every target parameter, {name!r} among them",
            f"globs {list(rank)} of which none matches it",
            "Add its name, or a last entry '*'.",
        )
    )


def _ranks(name: str, shape: tuple[int, ...], choice: RankChoice, form: Form) -> tuple[int, ...]:
    explicit = not isinstance(choice, int | float | str)
    if explicit:
        ranks = tuple(int(r) for r in choice)
    elif len(shape) < 2:
        ranks = shape  # vectors are kept whole
    elif isinstance(choice, float | str):
        require(
            not isinstance(choice, str) and 0 < choice < 1,
            "rank",
            "a fraction in (0, 1) or an integer",
            repr(choice),
            "Write 4, not 4.0.",
        )
        ranks = tuple(max(1, round(choice * d)) for d in shape)
    else:
        # A rank above a small mode's dimension (3x3 kernels) keeps that mode whole; above all of
        # them it cannot have been meant.
        if choice > max(shape):
            raise ValueError(_too_large(name, shape, choice))
        ranks = tuple(min(choice, d) for d in shape)
    require(
        len(ranks) == len(shape) and all(r >= 1 for r in ranks),
        "rank",
        f"one positive rank for each of the {len(shape)} modes of {name!r} {list(shape)}",
        repr(choice),
        "Give an integer, a fraction, or one rank per mode.",
    )
    if form == "cp" and len(shape) > 1:
        # An integer or an explicit CP rank may exceed a mode: its number of terms is its own measure.
        r = choice if isinstance(choice, int) else max(ranks)
        return (r,) * len(shape)
    if any(r > d for r, d in zip(ranks, shape, strict=True)):
        raise ValueError(_too_large(name, shape, choice))
    return ranks


def _too_large(name: str, shape: tuple[int, ...], choice: RankChoice) -> str:
    return problem(
        "rank",
        f"at most the dimensions {list(shape)} of {name!r}",
        repr(choice),
        "Lower it, give a fraction such as 0.1, or give ranks by glob: {'*.weight': 4, '*': 1}.",
    )
