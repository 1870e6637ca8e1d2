"""Classes of samples, from a file of their own or from beside the samples."""

from __future__ import annotations

import csv
from pathlib import Path

import torch

from subscape._checks import problem, require
from subscape._io import read_text
from subscape._shapes import Int
from subscape.cli.loading import load_array, load_labels
from subscape.cli.texts import check_there, lines_of
from subscape.data import Samples, n_samples

FIELD = "label"
"""Column or field of a class."""


def classes_for(
    file: Path | None, data: str, samples: Samples
) -> Int[torch.Tensor, " sample"] | None:
    """A class per sample: of the file, or the array `labels` of the data; None where there is none."""
    if file is None:
        return load_labels(data)
    check_there(file, "labels")
    if file.suffix in (".npy", ".npz", ".safetensors"):
        found = load_array(file, "labels")
    else:
        found = torch.tensor([_number(where, text) for where, text in _entries(file)])
    whole = found.dim() == 1 and not found.is_floating_point()
    expected = f"a whole number for each of the {n_samples(samples)} samples, in their order"
    got = f"{list(found.shape)} of {found.dtype} in {file}"
    require(whole and len(found) == n_samples(samples), "labels", expected, got)
    return found


def _entries(file: Path) -> list[tuple[str, str]]:
    """Each with where it stands."""
    match file.suffix:
        case ".jsonl":
            return [(where, str(record.get(FIELD))) for where, record in lines_of(file)]
        case ".csv":
            lines = list(csv.reader(read_text(file).splitlines()))
            head = lines[0] if lines else []
            column = head.index(FIELD) if FIELD in head else 0
            known = FIELD in head or len(head) == 1
            require(known, "labels", f"a column {FIELD!r} in {file}", f"columns {head}")
            skipped = int(bool(head) and not head[column].strip().lstrip("-").isdigit())
            rows = enumerate(lines[skipped:], skipped + 1)
            return [(f"{file} line {n}", row[column]) for n, row in rows if row]
        case ".txt":
            lines = enumerate(read_text(file).splitlines(), 1)
            return [(f"{file} line {n}", line) for n, line in lines if line.strip()]
        case _:
            kinds = "a .txt, .csv, .jsonl, .npy, .npz or .safetensors file"
            raise ValueError(problem("labels", kinds, repr(str(file))))


def _number(where: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        expected, repair = "a class as a whole number", "Names of classes: --names FILE."
        raise ValueError(problem(where, expected, repr(text[:40]), repair)) from None
