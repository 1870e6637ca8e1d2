"""Local replay: row gradients of any module from its own inputs and output gradients.

The module is run again, alone, one row at a time under vmap(grad): whatever it does with its parameters
(einsum, recurrences, attention as a unit), the model around it is not needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_flatten, tree_unflatten

from subscape.gradients.capture import Call
from subscape.targets import at_places, places

CHUNK_BUDGET = 128 * 2**20
"""Bytes of dense row gradients that one vmap chunk may make."""


def replayed(
    module: nn.Module,
    parameters: dict[str, Tensor],
    call: Call,
    output_gradients: list[Tensor],
    batched: list[bool],
    rows_of: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """Row gradients of a module's parameters for one call."""
    where = places(module, parameters)
    leaves, form = tree_flatten((call.args, call.kwargs))
    leaves = [None if _is_cache(x) else x for x in leaves]
    moving = [
        rows_of(x.detach())
        for x, b in zip(leaves, batched, strict=True)
        if b and isinstance(x, Tensor)
    ]

    def scalar(values: dict[str, Tensor], xs: list[Tensor], es: list[Tensor]) -> Tensor:
        rest = iter(xs)
        leaves_now = [
            next(rest)[None] if b else (x.detach() if isinstance(x, Tensor) else x)
            for x, b in zip(leaves, batched, strict=True)
        ]
        args, kwargs = tree_unflatten(leaves_now, form)
        given = at_places(values, where)
        outputs = tree_flatten(functional_call(module, given, args, kwargs, tie_weights=False))[0]
        kept = [y for y in outputs if isinstance(y, Tensor) and y.is_floating_point()]
        return sum(((y[0] * e).sum() for y, e in zip(kept, es, strict=True)), torch.zeros(()))

    size = sum(p.numel() * p.element_size() for p in parameters.values())
    chunk = max(1, CHUNK_BUDGET // size)
    # Fused attention has no batching rule: under vmap it falls back to a loop over rows.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        return vmap(grad(scalar), in_dims=(None, 0, 0), chunk_size=chunk)(
            {name: p.detach() for name, p in parameters.items()}, moving, output_gradients
        )


def batched_leaves(call: Call, surveyed: list[bool | None], n: int) -> list[bool]:
    """Which leaves of a call's arguments have an entry per sample, in this call."""
    leaves = call.inputs()
    if len(leaves) != len(surveyed):
        raise ValueError(f"it takes {len(leaves)} arguments now and {len(surveyed)} at first")
    found = []
    for leaf, before in zip(leaves, surveyed, strict=True):
        has_entries = isinstance(leaf, Tensor) and leaf.dim() > 0 and len(leaf) == n
        if before and isinstance(leaf, Tensor) and not has_entries:
            raise ValueError(f"an argument has shape {list(leaf.shape)} for {n} samples")
        # A mask may be there for padded batches only.
        found.append(has_entries and before is not False)
    return found


def _is_cache(value: Any) -> bool:
    """Key-value caches: a row is a whole sequence, and the call has already filled them."""
    return hasattr(value, "get_seq_length")
