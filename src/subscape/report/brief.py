"""A subnetwork in brief: some of its top samples, and what it moves."""

from __future__ import annotations

from typing import Any

from subscape.measures.kept import tokens_at
from subscape.measures.record import Measures, TopSample
from subscape.report.build import shown_sample

N_CONTEXTS = 3
SPAN = (5, 2)
"""Tokens shown before and after."""
N_MOVED = 3


def brief(measures: Measures, index: int) -> dict[str, Any]:
    """Contexts as (before, token, after), images as data URIs, names of outputs moved up and down."""
    entry, names = measures[index], measures.names
    moved = entry.top_outputs
    images = (_image(measures, row) for row in entry.top_samples[:N_CONTEXTS])
    return {
        "contexts": contexts(measures, index),
        "images": [image for image in images if image],
        "up": [names.output(i) for i, _ in moved.up[:N_MOVED]] if moved else [],
        "down": [names.output(i) for i, _ in moved.down[:N_MOVED]] if moved else [],
    }


def contexts(
    measures: Measures, index: int, n: int = N_CONTEXTS, span: tuple[int, int] = SPAN
) -> list[tuple[str, str, str]]:
    """Of its top rows that are tokens: the text before, the token, the text after."""
    rows = measures[index].top_samples[:n]
    return [found for row in rows if (found := _context(measures, row, span))]


def _place(measures: Measures, row: TopSample) -> int:
    return measures.samples["index"].tolist().index(row.sample)


def _context(
    measures: Measures, row: TopSample, span: tuple[int, int]
) -> tuple[str, str, str] | None:
    if row.position is None or "input_ids" not in measures.samples or not measures.names.tokens:
        return None
    ids = tokens_at(measures.samples, _place(measures, row))
    texts, at = [measures.names.token(i) for i in ids], row.position
    before, after = texts[max(0, at - span[0]) : at], texts[at + 1 : at + 1 + span[1]]
    return "".join(before), texts[at], "".join(after)


def _image(measures: Measures, row: TopSample) -> str | None:
    inputs = measures.samples.get("inputs")
    return None if inputs is None else shown_sample(inputs[_place(measures, row)]).get("image")
