"""Data as rows can be drawn from it: a tree of tensors that share their first axis.

Takes what users have (a tensor, an (inputs, labels) tuple, a dict or BatchEncoding, a data set or a
loader) and gives something that can be indexed by sample. Labels are never used: a divergence compares
outputs with outputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from subscape._checks import problem, require
from subscape._io import read_text

Samples = Tensor | dict[str, Tensor]


def as_samples(data: Any) -> Samples:
    """Turn `data` into a tensor or a dict of tensors with samples along the first axis.

    Args:
        data: a tensor [sample, ...]; a mapping of such tensors (BatchEncoding too); a tuple whose first
            entry is one of these (the rest, labels, is dropped); a torch data set of samples of these; or
            an iterable of batches of any of these (a DataLoader), which is read to its end.

    Raises:
        ValueError: if there is no sample, or tensors disagree on how many there are.
        TypeError: if `data` is none of these.
    """
    if isinstance(data, Tensor):
        _check_axis(data)
        samples: Samples = data
    elif isinstance(data, Mapping):
        samples = {str(k): v for k, v in data.items() if isinstance(v, Tensor)}
        for values in samples.values():
            _check_axis(values)
        lengths = {k: len(v) for k, v in samples.items()}
        require(
            len(set(lengths.values())) <= 1,
            "data",
            "tensors of one length",
            str(lengths),
            "Cut them to the same samples.",
        )
    elif isinstance(data, tuple) and data and isinstance(data[0], Tensor | Mapping):
        return as_samples(data[0])
    elif isinstance(data, Dataset) and isinstance(data, Sized):
        if len(data) == 0:
            raise ValueError(_empty("a data set of 0 samples"))
        whole = default_collate([data[i] for i in range(len(data))])
        return as_samples(tuple(whole) if isinstance(whole, list) else whole)
    elif isinstance(data, Iterable) and not isinstance(data, str | bytes | Path):
        # A loader collates (inputs, labels) into a list.
        batches = [as_samples(tuple(b) if isinstance(b, list) else b) for b in data]
        if not batches:
            raise ValueError(_empty("an iterable without batches"))
        samples = concatenated(batches)
    else:
        raise TypeError(
            problem(
                "data",
                "a tensor, a mapping of tensors, or an iterable of batches",
                type(data).__name__,
                "For text use subscape.data.text_windows, for arrays torch.from_numpy.",
            )
        )
    if not isinstance(samples, Tensor) and not samples:
        raise ValueError(_empty("a mapping without tensors"))
    if n_samples(samples) == 0:
        raise ValueError(_empty("0 samples"))
    return samples


def _empty(got: str) -> str:
    return problem("data", "at least 2 samples", got, "Check the path or the filter that made it.")


def _check_axis(values: Tensor) -> None:
    require(
        values.dim() > 0,
        "data",
        "samples along the first axis",
        "shape []",
        "Stack single samples first.",
    )


def form_of(samples: Samples) -> dict[str, tuple[int, ...]]:
    """Shape of one sample, by name."""
    by_name = {"": samples} if isinstance(samples, Tensor) else samples
    return {k: tuple(v.shape[1:]) for k, v in by_name.items()}


def concatenated(batches: list[Samples]) -> Samples:
    """Samples of one form, one after the other."""
    first = batches[0]
    for number, batch in enumerate(batches):
        require(
            form_of(batch) == form_of(first),
            "data",
            "batches of the same tensors, equal but for their number of samples",
            f"samples of shape {form_of(first)} in batch 0, {form_of(batch)} in batch {number}",
            "Pad or cut them to one shape.",
        )
    if isinstance(first, Tensor):
        return torch.cat([b for b in batches if isinstance(b, Tensor)])
    return {k: torch.cat([b[k] for b in batches if not isinstance(b, Tensor)]) for k in first}


def n_samples(samples: Samples) -> int:
    """Number of samples."""
    return len(samples) if isinstance(samples, Tensor) else len(next(iter(samples.values())))


def hashes(samples: Samples) -> list[bytes]:
    """A hash of every sample: equal where all its tensors are equal to the bit."""
    by_name = {"": samples} if isinstance(samples, Tensor) else samples
    digests = [hashlib.blake2b(digest_size=16) for _ in range(n_samples(samples))]
    for name in sorted(by_name):
        raw = by_name[name].detach().cpu().contiguous().reshape(len(digests), -1)
        for digest, row in zip(digests, raw.view(torch.uint8).numpy(), strict=True):
            digest.update(row.tobytes())
    return [digest.digest() for digest in digests]


def take(samples: Samples, index: Tensor | slice) -> Samples:
    """Copies of the samples at `index`, in its order: a model may change its inputs in place."""
    if isinstance(samples, Tensor):
        return samples[index].clone() if isinstance(index, slice) else samples[index]
    return {
        k: v[index].clone() if isinstance(index, slice) else v[index] for k, v in samples.items()
    }


def to_device(samples: Samples, device: torch.device) -> Samples:
    """The samples on `device`."""
    if isinstance(samples, Tensor):
        return samples.to(device)
    return {k: v.to(device) for k, v in samples.items()}


def text_windows(
    path: str | Path, tokenizer: Any, *, length: int = 16, separator: str = "<|endoftext|>"
) -> dict[str, Tensor]:
    """Cut a text file into windows of `length` tokens, one story never running into the next.

    Args:
        path: a UTF-8 text file; stories are separated by `separator`.
        tokenizer: a Hugging Face tokenizer, called on every story with its own special tokens.
        length: tokens in a window; a story's shorter remainder is dropped, so there is no padding.
        separator: what stands between stories.

    Returns:
        The windows as `input_ids`, [window, length].

    Raises:
        ValueError: if no story has `length` tokens.
    """
    return windows_of(read_text(path).split(separator), tokenizer, length=length, where=str(path))


def windows_of(
    texts: Iterable[str], tokenizer: Any, *, length: int, where: str = "the data"
) -> dict[str, Tensor]:
    """Windows of so many tokens, `input_ids` [window, length], none of which runs into the next text."""
    require(length >= 1, "length", "a whole number of at least 1", repr(length))
    windows, n_texts = [], 0
    for text in filter(None, map(str.strip, texts)):
        ids = torch.tensor(tokenizer(text)["input_ids"])
        windows.append(ids[: len(ids) // length * length].view(-1, length))
        n_texts += 1
    ids = torch.cat(windows) if windows else torch.empty(0, length)
    require(
        len(ids) > 0,
        "data",
        f"at least one text of {length} tokens in {where}",
        f"{n_texts} shorter ones",
        "Lower the window length, or check the separator.",
    )
    return {"input_ids": ids}


def padded_texts(texts: Sequence[str], tokenizer: Any, *, length: int) -> dict[str, Tensor]:
    """Every text a sample of so many tokens, cut or padded: `input_ids`, `attention_mask` [text, length]."""
    require(bool(texts), "data", "at least one text", "none")
    padding = getattr(tokenizer, "pad_token", None)
    expected, repair = "a tokenizer with a token for padding", "Set its pad_token and save it."
    require(padding is not None, "model", expected, "one without", repair)
    batch = tokenizer(
        list(texts),
        padding="max_length",
        truncation=True,
        max_length=length,
        padding_side="right",
        return_tensors="pt",
    )
    # Types of tokens are zeros where there is one text, which is what models take without them.
    return {name: batch[name] for name in ("input_ids", "attention_mask")}
