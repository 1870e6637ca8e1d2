"""Names by rule: what nearly all top rows of a subnetwork share and few others do; and chance beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch

from subscape.measures.record import Measures, TopSample
from subscape.rows import generator_of

SHARE = 0.8
"""Of the top rows must share what names a subnetwork, at least twice the share among all subnetworks' top rows."""
AT_LEAST = 8
"""Top rows, or nothing is said of them."""
KINDS = ("class", "token", "next token", "after", "word begins with", "word has initial")
"""What rows can share, the first that does is taken."""
Features = Mapping[str, str]
"""What is known of a row, by kind."""


@dataclass(frozen=True)
class RuleNames:
    """Names of those subnetworks that a rule tells."""

    names: Mapping[int, str]
    """By subnetwork."""
    n_shuffled: int
    """How many have one when all top rows are dealt out at random: what chance gives."""


def rule_names(measures: Measures, seed: int = 0) -> RuleNames:
    """Name subnetworks by current, next or previous token, by how the word begins, or by class."""
    places = {sample: i for i, sample in enumerate(measures.samples["index"].tolist())}
    rows = [
        [_features(measures, row, places[row.sample]) for row in entry.top_samples]
        for entry in measures
    ]
    pool = [features for of_one in rows for features in of_one]
    usual = Counter(pair for features in pool for pair in features.items())
    names = {k: name for k, of_one in enumerate(rows) if (name := _name(of_one, usual, len(pool)))}
    order = torch.randperm(len(pool), generator=generator_of(seed, 31)).tolist()
    dealt = iter([pool[i] for i in order])
    chance = [_name(list(islice(dealt, len(of_one))), usual, len(pool)) for of_one in rows]
    return RuleNames(names, sum(name is not None for name in chance))


def _features(measures: Measures, row: TopSample, place: int) -> Features:
    kept = measures.samples
    if row.position is None or "input_ids" not in kept or not measures.names.tokens:
        return {"class": str(kept["labels"][place].item())} if "labels" in kept else {}
    texts = [measures.names.token(i) for i in kept["input_ids"][place].tolist()]
    at = row.position
    near = {"token": at, "next token": at + 1, "after": at - 1}
    found = {
        kind: repr(texts[place].strip() or texts[place])
        for kind, place in near.items()
        if 0 <= place < len(texts)
    }
    begun = "".join(texts[: at + 1]).split()
    word = begun[-1].lower() if begun else ""
    if word[:1].isalpha():
        found |= {"word begins with": repr(word[:2]), "word has initial": repr(word[0])}
    return found


def _name(rows: Sequence[Features], usual: Counter[tuple[str, str]], n_all: int) -> str | None:
    if len(rows) < AT_LEAST:
        return None
    counts = Counter(pair for features in rows for pair in features.items())
    for (kind, value), n in sorted(counts.items(), key=lambda c: (-c[1], KINDS.index(c[0][0]))):
        share = n / len(rows)
        if share >= SHARE and usual[kind, value] / n_all <= share / 2:
            return f"{kind} {value}"
    return None
