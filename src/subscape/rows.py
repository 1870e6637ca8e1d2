"""Which samples, positions and partners a step has: pure in (seed, step, rank, number of ranks).

Rows come in groups of whole samples that are always made together, by whatever memory budget and on whatever
rank: a row's partner is in its own group. So neither micro-batches nor processes change what a row is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

from subscape._checks import problem, require
from subscape._shapes import Bool, Float, Int

RowKind = Literal["sample", "sampled-token", "token"]
"""What a row is: a sample; one position of every sequence, drawn anew every time; every position of each."""
GROUP = 8
"""Samples in a group at least, where there are as many."""


@dataclass(frozen=True)
class Rows:
    """Rows of a data set, in groups that are made together."""

    samples: Int[Tensor, " row"]
    """Index of every row's sample in the data."""
    position: Int[Tensor, " row"] | None
    """Position in the sequence of every token row; None where a sample is a row."""
    partner: Int[Tensor, " row"]
    """Place among these rows of another row of the same group, uniform over them; the row's own if alone."""
    groups: tuple[int, ...]
    """Rows of every group, in their order."""
    per_sample: int = 1
    """Rows of a sample: its positions where every position is a row, less those of padding."""
    n_positions: int = 1
    """Positions of a sequence."""

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def index(self) -> Int[Tensor, " row"]:
        """Place of every row in the data, counting a sequence's positions where rows are tokens."""
        if self.position is None:
            return self.samples
        return self.samples * self.n_positions + self.position

    @property
    def sample_of_each(self) -> Int[Tensor, " sample"]:
        """The samples, each once."""
        if self.per_sample == 1 or self.position is None:
            return self.samples
        return self.samples[self._first]

    @property
    def _first(self) -> Bool[Tensor, " row"]:
        """Whether a row is the first of its sample, where every position of one is a row."""
        assert self.position is not None
        first = torch.ones(len(self), dtype=torch.bool)
        # Positions rise within a sample; the same one may come twice.
        other = self.samples[1:] != self.samples[:-1]
        first[1:] = other | (self.position[1:] <= self.position[:-1])
        return first

    @property
    def place(self) -> Int[Tensor, " row"]:
        """Place of every row among all positions of the samples, one sample after the other."""
        if self.per_sample == 1 or self.position is None:
            return torch.arange(len(self))
        return (self._first.cumsum(0) - 1) * self.per_sample + self.position

    def at_every_place(self, values: Float[Tensor, "row ..."]) -> Float[Tensor, "place ..."]:
        """Values of rows among all positions of the samples: 0 where padding is."""
        n = len(self.sample_of_each) * self.per_sample
        if n == len(self):
            return values
        whole = values.new_zeros(n, *values.shape[1:])
        whole[self.place.to(values.device)] = values
        return whole

    @property
    def picked_position(self) -> Int[Tensor, " sample"] | None:
        """The position asked for in every sample; None where a sample, or each of its positions, is a row."""
        return None if self.per_sample > 1 else self.position

    def same(self, other: Rows) -> bool:
        """Whether others are the same rows, in the same groups."""
        pairs = ((self.index, other.index), (self.partner, other.partner))
        return self.groups == other.groups and all(torch.equal(*pair) for pair in pairs)

    def between(self, start: int, stop: int) -> Rows:
        """The groups from number `start` to before `stop`."""
        ends = [0, *accumulate(self.groups)]
        part = slice(ends[start], ends[stop])
        position = None if self.position is None else self.position[part]
        partner = self.partner[part] - ends[start]
        groups = self.groups[start:stop]
        return Rows(
            self.samples[part], position, partner, groups, self.per_sample, self.n_positions
        )

    def share(self, rank: int, n_ranks: int) -> Rows:
        """The groups of one of several processes; none where there are more of these."""
        return self.between(*(len(self.groups) * r // n_ranks for r in (rank, rank + 1)))

    def micro_batches(self, size: int | None) -> list[Rows]:
        """Whole groups of up to `size` rows together, one group at least; all rows where it is None."""
        if size is None or len(self) <= size:
            return [self]
        parts, start, rows = [], 0, 0
        for number, n in enumerate(self.groups):
            if rows and rows + n > size:
                parts.append(self.between(start, number))
                start, rows = number, 0
            rows += n
        return [*parts, self.between(start, len(self.groups))]


def joined(parts: Sequence[Rows]) -> Rows:
    """Rows one after the other; partners stay within their parts."""
    if len(parts) == 1:
        return parts[0]
    starts = accumulate([len(part) for part in parts], initial=0)
    positions = [part.position for part in parts if part.position is not None]
    return Rows(
        torch.cat([part.samples for part in parts]),
        torch.cat(positions) if positions else None,
        torch.cat([part.partner + start for part, start in zip(parts, starts, strict=False)]),
        tuple(n for part in parts for n in part.groups),
        parts[0].per_sample,
        parts[0].n_positions,
    )


@dataclass(frozen=True)
class RowDraws:
    """Draws rows from a data set of known size.

    Steps of one epoch have different samples; every epoch is shuffled anew.
    """

    n_samples: int
    """Samples there are."""
    kind: RowKind
    """What a row is."""
    n_positions: int
    """Positions of a sample's outputs; of no meaning where a sample is a row."""
    seed: int
    """Draws the order of samples, positions and partners."""
    mask: Bool[Tensor, "sample position"] | None = None
    """Which positions are tokens, where some are padding, which is no row."""

    @property
    def per_sample(self) -> int:
        """Rows that a sample without padding gives."""
        return self.n_positions if self.kind == "token" else 1

    @property
    def n_rows(self) -> int:
        """Rows that all samples give."""
        if self.mask is None or self.kind != "token":
            return self.n_samples * self.per_sample
        return int(self.mask.sum())

    def at_step(self, step: int, size: int, *, rank: int = 0, n_ranks: int = 1) -> Rows:
        """The rows of a step, `size` over all ranks: the same for the same arguments, whatever was drawn before.

        Padding counts in `size`, and is then left out.

        Raises:
            ValueError: if there are fewer samples than that, or `size` is no whole number of sequences.
        """
        if size % self.per_sample:
            fitting = -(-size // self.per_sample) * self.per_sample
            raise ValueError(
                problem(
                    "batch_size",
                    f"a multiple of the {self.n_positions} positions of a sample for 'token' rows",
                    f"{size}",
                    f"{fitting} would do.",
                )
            )
        n = size // self.per_sample
        require(
            n <= self.n_samples,
            "batch_size",
            f"at most the {self.n_samples} samples there are (without those held out)",
            f"{n}",
            "Lower it, or give more data.",
        )
        epoch, place = divmod(step, self.n_samples // n)
        order = permutation(self.n_samples, self.seed, epoch)
        rows = self.of_samples(order[place * n : (place + 1) * n], draw=step)
        return rows if n_ranks == 1 else rows.share(rank, n_ranks)

    def of_samples(self, samples: Int[Tensor, " sample"], *, draw: int) -> Rows:
        """Rows of given samples, with positions and partners of draw number `draw`."""
        generator = generator_of(self.seed, 1, draw)
        position, n = None, len(samples)
        groups = _group_sizes(n, self.per_sample)
        if self.kind == "sampled-token":
            position = self.positions_drawn(samples, generator)
        if self.kind == "token":
            position = torch.arange(self.n_positions).repeat(n)
            samples = samples.repeat_interleave(self.n_positions)
            if self.mask is not None:
                kept = self.mask[samples, position]
                groups = tuple(int(part.sum()) for part in kept.split(list(groups)))
                samples, position = samples[kept], position[kept]
        partner = _partners(groups, generator)
        return Rows(samples, position, partner, groups, self.per_sample, self.n_positions)

    def positions_drawn(
        self, samples: Int[Tensor, " sample"], generator: torch.Generator
    ) -> Int[Tensor, " sample"]:
        """One position of every sample, uniform over its tokens."""
        if self.mask is None:
            return torch.randint(0, self.n_positions, (len(samples),), generator=generator)
        weights = self.mask[samples].double()
        return torch.multinomial(weights, 1, generator=generator)[:, 0]


def generator_of(*numbers: int) -> torch.Generator:
    """A CPU generator that depends on `numbers` only: its own stream for every use of a seed."""
    state = 0
    for number in numbers:
        # splitmix64 step: neighbouring numbers must not give related Mersenne seeds.
        state = (state + number + 0x9E3779B97F4A7C15) % 2**64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % 2**64
        state ^= state >> 31
    return torch.Generator().manual_seed(state - 2**63)


@lru_cache(maxsize=8)
def permutation(n: int, seed: int, epoch: int) -> Tensor:
    """The order of n samples in an epoch."""
    return torch.randperm(n, generator=generator_of(seed, 0, epoch))


def _group_sizes(n_samples: int, per_sample: int) -> tuple[int, ...]:
    """Rows of each group: `GROUP` samples or a few more, so that none is left with one row alone."""
    n_groups = max(1, n_samples // GROUP)
    bounds = [n_samples * g // n_groups for g in range(n_groups + 1)]
    return tuple((b - a) * per_sample for a, b in _pairs(bounds))


def _pairs(values: Sequence[int]) -> Iterator[tuple[int, int]]:
    return zip(values[:-1], values[1:], strict=True)


def _partners(groups: tuple[int, ...], generator: torch.Generator) -> Int[Tensor, " row"]:
    size, start = _bounds(groups)
    draw: Float[Tensor, " row"] = torch.rand(len(size), generator=generator, dtype=torch.float64)
    steps = 1 + (draw * (size - 1)).long()
    return start + (torch.arange(len(size)) - start + steps) % size


@lru_cache(maxsize=32)
def _bounds(groups: tuple[int, ...]) -> tuple[Int[Tensor, " row"], Int[Tensor, " row"]]:
    """Size and start of every row's group."""
    sizes = torch.tensor(groups)
    starts = sizes.cumsum(0) - sizes
    return sizes.repeat_interleave(sizes), starts.repeat_interleave(sizes)
