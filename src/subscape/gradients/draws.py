"""What is drawn, and by which names a run is told apart: the same in every process."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


def sha256_of(tensors: Mapping[str, Tensor]) -> str:
    """The start of a SHA-256 of names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, values in tensors.items():
        digest.update(f"{name} {values.dtype} {list(values.shape)}".encode())
        raw = values.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest.update(raw.numpy().tobytes())
    return f"SHA-256 {digest.hexdigest()[:16]}"


def name_of(rule: Any) -> str:
    """Name of a function or type, the same in every process; a data class shows its fields."""
    if is_dataclass(rule):
        values = {f.name: getattr(rule, f.name) for f in fields(rule)}
        shown = [f"{k}={sha256_of({k: v})}" for k, v in values.items() if isinstance(v, Tensor)]
        shown += [f"{k}={v!r}" for k, v in values.items() if not isinstance(v, Tensor)]
        return f"{type(rule).__qualname__}({', '.join(shown)})"
    return getattr(rule, "__qualname__", type(rule).__qualname__)


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
