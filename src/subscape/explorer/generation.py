"""Text that a causal language model goes on with, the likeliest token each time, with moved parameters.

Not `model.generate`: the moved parameters are lent to single calls, so that the model itself never changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

import torch
from torch import Tensor

from subscape.targets import Functional, Target, at_places, places


def continuation(
    target: Target,
    ids: Sequence[int],
    moved: Mapping[str, Tensor],
    n: int,
    *,
    end: int | None = None,
) -> list[int] | None:
    """Up to n more tokens; None where logits are not finite."""
    where = places(target.model, target.names)
    model = Functional(target.model, at_places(moved, {name: where[name] for name in moved}))
    device = target.like.device
    whole, new, past = torch.tensor([list(ids)], device=device), [], None
    fed = whole
    with torch.no_grad():
        for _ in range(n):
            cache: dict[str, Any] = {} if past is None else {"past_key_values": past}
            output = model(input_ids=fed, use_cache=True, **cache)
            logits = output.logits[0, -1]
            if not torch.isfinite(logits).all():
                return None
            token = int(logits.argmax())
            new.append(token)
            if token == end:
                break
            past = getattr(output, "past_key_values", None)
            latest = torch.tensor([[token]], device=device)
            whole = torch.cat([whole, latest], 1)
            fed = whole if past is None else latest
    return new


def difference(before: str, after: str) -> list[tuple[str, str]]:
    """Words in order, as pairs of "same", "gone" or "come" and text."""
    old, new = before.split(), after.split()
    parts = []
    for kind, i, j, k, m in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            parts.append(("same", " ".join(old[i:j])))
            continue
        parts += [
            (what, " ".join(words))
            for what, words in (("gone", old[i:j]), ("come", new[k:m]))
            if words
        ]
    return parts
