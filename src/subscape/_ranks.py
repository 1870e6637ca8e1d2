"""The processes that work on one decomposition together, each on its part of the rows.

All make the same calls, and every tensor that they exchange is the same on all of them to the bit. Alone, as
without a process group of `torch.distributed`, nothing is exchanged and nothing changes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, distributed

from subscape._checks import problem
from subscape._shapes import Float

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """One of the processes, and how many there are."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that decides, says and writes."""
        return self.rank == 0

    def summed(self, own: Tensor) -> Tensor:
        """The sum over processes of a tensor that all have in the same shape."""
        if self.size == 1:
            return own
        total = own.clone()
        _reached(lambda: distributed.all_reduce(total))
        return total

    def number(self, own: float | int) -> float | int:
        """The same of a number."""
        return own if self.size == 1 else float(self.summed(torch.tensor(own, dtype=torch.float64)))

    def average_(self, own: Tensor) -> None:
        """Put the mean over processes in its place."""
        if self.size > 1:
            _reached(lambda: distributed.all_reduce(own))
            own /= self.size

    def joined(
        self, own: Float[Tensor, "..."], sizes: Sequence[int], *, dim: int
    ) -> Float[Tensor, "..."]:
        """The parts of all processes, of `sizes` along `dim`, one after the other."""
        if self.size == 1:
            return own
        shape = list(own.shape)
        shape[dim] = sum(sizes)
        # A sum with zeros elsewhere is exact, and takes parts of any size on any backend.
        whole = own.new_zeros(shape)
        whole.narrow(dim, sum(sizes[: self.rank]), own.shape[dim]).copy_(own)
        return self.summed(whole)

    def decided(self, decide: Callable[[], T]) -> T:
        """What the first process alone decides; its tensors on the CPU."""
        if self.size == 1:
            return decide()
        said = [decide() if self.first else None]
        _reached(lambda: distributed.broadcast_object_list(said))
        return said[0]  # pyright: ignore[reportReturnType]

    def share(self, work: Sequence[T]) -> tuple[Sequence[T], Ranks]:
        """Its part of some work, and with whom to sum the result; alone with all of it if that is too little."""
        if len(work) < self.size:
            return work, ALONE
        return work[self.rank :: self.size], self


ALONE = Ranks()
"""One process."""


def current() -> Ranks:
    """The processes of the default group of `torch.distributed`, if there is one."""
    if distributed.is_available() and distributed.is_initialized():
        return Ranks(distributed.get_rank(), distributed.get_world_size())
    return ALONE


@contextmanager
def launched(device: torch.device) -> Generator[tuple[Ranks, torch.device]]:
    """The processes that `torchrun` or `accelerate launch` started, and this one's device.

    Yields:
        Processes and device; of several CUDA devices the one with this process's number on its machine.
    """
    if n_launched() == 1 or current().size > 1:
        yield current(), device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    yield current(), device
    # Not after an error: the others, who wait, are to see that this one is gone.
    distributed.destroy_process_group()


def n_launched() -> int:
    """How many processes were started together, by the environment."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def _reached(exchange: Callable[[], object]) -> None:
    """Exchange something, and say what it means where that fails."""
    try:
        exchange()
    except RuntimeError as error:
        raise ConnectionError(
            problem(
                "processes",
                "all of them to go on together",
                "one that has stopped, or does not answer",
                "See what it said itself. A run with a folder goes on from its last checkpoint, with any "
                "number of processes.",
            )
        ) from error
