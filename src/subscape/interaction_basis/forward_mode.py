"""Directional derivatives of a section in many directions at once.

Fused attention kernels have no forward-mode rule. Where a section meets one, the same attention is written
out instead, and a warning says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from subscape._checks import out_of_memory, problem
from subscape._shapes import Float
from subscape.interaction_basis.chain import Section

Push = Callable[[Tensor, Tensor], Tensor]


def pushforward(section: Section) -> Push:
    """The function (point, tangents [tangent, *point]) -> derivatives [tangent, *output] of a section."""
    written_out = False

    def push(point: Float[Tensor, "..."], tangents: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        nonlocal written_out
        try:
            with sdpa_kernel(SDPBackend.MATH) if written_out else nullcontext():
                return _push(section, point, tangents)
        except (RuntimeError, NotImplementedError) as error:
            if written_out or "attention" not in str(error):
                raise
            reason = f"{type(error).__name__}: {error}"
        try:
            with sdpa_kernel(SDPBackend.MATH):
                derivatives = _push(section, point, tangents)
        except (RuntimeError, NotImplementedError) as error:
            if out_of_memory(error):
                raise
            expected = "a section with forward-mode derivatives"
            repair = "Load the model with attn_implementation='eager'."
            raise ValueError(problem("sections", expected, reason, repair)) from error
        warnings.warn(
            "A section uses fused attention, which has no forward-mode derivative; "
            "its attention is written out (the math kernel) for the edges.",
            stacklevel=2,
        )
        written_out = True
        return derivatives

    return push


def _push(section: Section, point: Tensor, tangents: Tensor) -> Tensor:
    with warnings.catch_warnings():
        # torch compiles its own rules with this on the first use; nothing the caller can change.
        warnings.filterwarnings("ignore", message=".*torch.jit.script", category=DeprecationWarning)
        return torch.vmap(lambda tangent: torch.func.jvp(section, (point,), (tangent,))[1])(
            tangents
        )
