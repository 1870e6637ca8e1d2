"""What a reader of the page can give to the model: a text, or a sample of the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from subscape._checks import require
from subscape.data import Samples, n_samples, take
from subscape.measures.kept import token_ids, tokens_at
from subscape.measures.rows import RowSet

MOST_TOKENS = 256
"""Of a text."""
Namer = Callable[[int], str]


@dataclass(frozen=True)
class Given:
    """One sample, as the model takes it, and what is to be said of it."""

    batch: Samples
    """The sample alone, with its first axis."""
    tokens: tuple[int, ...] | None
    """Its token ids, where it is a sequence of them."""
    sample: int | None
    """Its place in the data; None for a text that somebody typed."""

    def row(self, position: int | None, *, by_token: bool) -> RowSet:
        """The row at a position; by default the last."""
        if not by_token:
            return RowSet(torch.zeros(1, dtype=torch.long))
        n = len(self.tokens or ())
        at = n - 1 if position is None else position
        require(0 <= at < n, "position", f"one of the {n} tokens, 0 to {n - 1}", at)
        return RowSet(torch.zeros(1, dtype=torch.long), torch.tensor([at]))


def of_text(text: str, tokenizer: Any, longest: int = MOST_TOKENS) -> Given:
    """A text, cut to tokens."""
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    n = ids.shape[-1]
    require(1 <= n <= longest, "text", f"1 to {longest:,} tokens", f"{n:,}", "Shorten it.")
    return Given({"input_ids": ids}, tuple(ids[0].tolist()), None)


def of_data(data: Samples, index: int) -> Given:
    """A sample of the data."""
    n = n_samples(data)
    require(0 <= index < n, "sample", f"a sample of the data, 0 to {n - 1}", index)
    batch = take(data, torch.tensor([index]))
    ids = token_ids(batch)
    if ids is None:
        return Given(batch, None, index)
    named = {"input_ids": batch} if isinstance(batch, torch.Tensor) else batch
    return Given(batch, tuple(tokens_at(named, 0)), index)
