"""Hashes of tensors, by which models, data and results are told apart."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def raw_bytes(values: Tensor) -> memoryview:
    """The bytes of a tensor's values, in order."""
    flat = values.detach().cpu().contiguous().view(-1).view(torch.uint8)
    return memoryview(flat.numpy())  # pyright: ignore[reportArgumentType]


def sha256_of(tensors: Mapping[str, Tensor]) -> str:
    """The start of a SHA-256 of names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, values in tensors.items():
        digest.update(f"{name} {values.dtype} {list(values.shape)}".encode())
        digest.update(raw_bytes(values))
    return f"SHA-256 {digest.hexdigest()[:16]}"
