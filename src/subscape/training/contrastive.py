"""Contrastive pairs: every sample is compared with its partner's output (arXiv 2504.00194, B.2)."""

from __future__ import annotations

from typing import Any

import torch

from subscape._checks import require
from subscape.data import (
    Samples,
    as_samples,
    concatenated,
    form_of,
    hashes,
    n_samples,
    take,
    to_device,
)
from subscape.references import Pairs
from subscape.targets import Target

BATCH = 32
"""Samples of a forward pass."""


def paired(target: Target, a: Any, b: Any) -> tuple[Samples, Pairs]:
    """Both sets as one, and for every sample the model's output for its partner.

    Example::

        samples, pairs = paired(target, sentences_with_he, the_same_with_she)
        subscape.decompose(target, samples, reference=pairs, rows="token", divergence="kl")

    Args:
        target: the model.
        a: inputs.
        b: the partner of every one of them, of the same form.

    Returns:
        The samples, those of `a` before those of `b`, and their references: outputs, held in memory, of [sample,
        *output], so of a language model [sample, position, token].

    Raises:
        ValueError: if there is no partner for every sample, or one is its own.
    """
    first, second = as_samples(a), as_samples(b)
    n, m = n_samples(first), n_samples(second)
    require(n == m, "contrast", f"a partner for each of the {n} samples", f"{m}")
    forms = [form_of(samples) for samples in (first, second)]
    expected = f"partners of the samples' own form {forms[0]}"
    require(forms[0] == forms[1], "contrast", expected, f"{forms[1]}")
    same = sum(x == y for x, y in zip(hashes(first), hashes(second), strict=True))
    require(not same, "contrast", "partners that differ", f"{same} of {n} that are equal")
    outputs = []
    with torch.no_grad():
        for samples in (second, first):
            for part in torch.arange(n).split(BATCH):
                here = to_device(take(samples, part), target.like.device)
                outputs.append(target.called(here).cpu())
    return concatenated([first, second]), Pairs(torch.cat(outputs))
