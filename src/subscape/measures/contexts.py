"""What a row has seen, as a number: rows of equal contexts are copies, of which lists show one."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from subscape._hash import raw_bytes
from subscape._shapes import Int
from subscape.data import Samples, hashes
from subscape.measures.kept import token_ids


def context_keys(samples: Samples, n_positions: int | None) -> Int[Tensor, " row"]:
    """Equal where the tokens up to a row's position are, or, of other data, where samples and positions are.

    `n_positions` of every sample, one sample after the other; None where a sample is a row.
    """
    ids = token_ids(samples)
    if n_positions is None or ids is None or ids.shape[1] != n_positions:
        of_samples = hashes(samples)
        places = [place.to_bytes(8) for place in range(n_positions or 1)]
        return torch.tensor([_number(whole + place) for whole in of_samples for place in places])
    keys = []
    for row in ids:
        digest = hashlib.blake2b(digest_size=8)
        for one in row.split(1):
            digest.update(raw_bytes(one))
            keys.append(int.from_bytes(digest.digest(), signed=True))
    return torch.tensor(keys)


def _number(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), signed=True)
