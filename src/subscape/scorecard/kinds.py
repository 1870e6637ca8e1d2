"""What rows can have in common: token, next token, word class, label; a whole number of each row."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from subscape._checks import require
from subscape._shapes import Int
from subscape.data import n_samples
from subscape.gradients import GradientSource
from subscape.measures.kept import token_ids
from subscape.scorecard.word_class import word_classes

UNKNOWN = -1
"""Of a row of which a kind is not known: it agrees with no other."""
TOKEN, NEXT, WORD, LABEL, PREDICTED = (
    "token",
    "next token",
    "word class",
    "label",
    "predicted class",
)
Kinds = Mapping[str, Tensor]
"""By kind, [row]."""


def kinds_of(
    source: GradientSource,
    samples: Int[Tensor, " sample"],
    labels: Tensor | None,
    token_names: Callable[[int], str] | None,
) -> Kinds:
    """What is known of the rows of given samples, one sample after the other; padding is no row.

    Without labels the class that a classifier predicts stands for them.
    """
    per_sample = source.draws.per_sample
    ids, rows = token_ids(source.data), source.rows_of(samples)
    kinds: dict[str, Tensor] = {}
    if source.kind == "token" and ids is not None and ids.shape[1] == per_sample:
        windows = ids[samples].cpu().long()
        last = torch.full((len(windows), 1), UNKNOWN)
        known = windows
        if source.draws.mask is not None:
            known = windows.where(source.draws.mask[samples.cpu()], UNKNOWN)
        kinds[TOKEN] = windows.flatten()[rows.place]
        kinds[NEXT] = torch.cat([known[:, 1:], last], 1).flatten()[rows.place]
        if token_names is not None:
            texts = {i: token_names(i) for i in windows.unique().tolist()}
            named = [word_classes([texts[i] for i in window]) for window in windows.tolist()]
            words = torch.tensor([_number(name) for line in named for name in line])
            kinds[WORD] = words[rows.place]
    if labels is not None:
        kinds[LABEL] = _by_place(torch.as_tensor(labels), source, samples)[rows.place]
    elif source.divergence.logits and source.kind == "sample":
        outputs = [source.outputs_at(source.rows_of(part)) for part in samples.split(256)]
        top = torch.cat(outputs).argmax(-1)
        if top.dim() == 1:
            kinds[PREDICTED] = top.cpu()
    return kinds


def _by_place(labels: Tensor, source: GradientSource, samples: Tensor) -> Int[Tensor, " place"]:
    n, per_sample = n_samples(source.data), source.draws.per_sample
    right = list(labels.shape) in ([n], [n, per_sample]) and not labels.is_floating_point()
    expected = f"a whole number for each of the {n} samples"
    require(right, "labels", expected, f"{labels.dtype} of shape {list(labels.shape)}")
    chosen = labels[samples.to(labels.device)].cpu().long()
    return chosen.repeat_interleave(per_sample) if labels.dim() == 1 else chosen.flatten()


def _number(name: str) -> int:
    """A number for a name, the same for the same name and never `UNKNOWN`."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest())
