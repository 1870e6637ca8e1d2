"""Do the top positions of a subnetwork of a language model have something in common?

    python experiments/token_agreement.py RUN --model MODEL --data heldout.txt

For every subnetwork of a measured run (`subscape measure RUN`): how many of its 10 top positions share the
current token, the next token, or the class of the word the token belongs to. Beside it the same for random
directions with the same norm and rank in every tensor, and for positions dealt out to subnetworks at random
(shuffled). The share counted is of those with at least 8 of 10 in common.
"""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from subscape import Decomposition
from subscape.cli.loading import load_data, load_model, load_tokenizer
from subscape.measures import Impact
from subscape.measures.impact import impact
from subscape.rows import generator_of
from subscape.scorecard.chance import chance_of
from subscape.scorecard.word_class import word_classes

N_TOP, ENOUGH = 10, 8
KINDS = ("current token", "next token", "word class")
Place = tuple[int, int]
"""A sample and a position in it."""


def largest(kinds: list) -> int:
    """Size of the largest group of equal ones."""
    return Counter(kinds).most_common(1)[0][1]


def texts_of(tokenizer: Any) -> list[str]:
    """Every token as it stands in a text."""
    tokens: list[str] = [tokenizer.convert_ids_to_tokens(i) for i in range(len(tokenizer))]
    return [" " + t[1:] if t.startswith("▁") else {"<0x0A>": "\n"}.get(t, t) for t in tokens]


def places_of(result: Impact) -> list[list[Place]]:
    """Sample and position of the top rows of every subnetwork, rows being tokens."""
    places = []
    for top in result.top:
        assert top.rows.position is not None
        places.append(list(zip(top.rows.samples.tolist(), top.rows.position.tolist(), strict=True)))
    return places


def agreement(
    groups: Sequence[Sequence[Place]], ids: torch.Tensor, texts: Sequence[str]
) -> dict[str, dict[str, float]]:
    """What the places of every group have in common, by kind."""
    sizes = torch.tensor([
        [largest([_kind(k, ids, texts, *place) for place in g]) if g else 0 for k in KINDS]
        for g in groups
    ])
    sizes = torch.cat([sizes, sizes.amax(1, keepdim=True)], dim=1).double()
    return {
        kind: {
            "mean_largest_group": float(of_kind.mean()),
            "share_of_subnetworks": float((of_kind >= ENOUGH).double().mean()),
        }
        for kind, of_kind in zip([*KINDS, "any of the three"], sizes.T, strict=True)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--window", type=int, default=16)
    parser.add_argument("--n-rows", type=int, default=20_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    texts = texts_of(load_tokenizer(arguments.model))
    data = load_data(arguments.data, arguments.model, arguments.window)
    assert isinstance(data, dict)
    ids = data["input_ids"]
    found = Decomposition.from_pretrained(arguments.run / "final")
    source = found.source(load_model(arguments.model).model, {"input_ids": ids})
    tops = {}
    for name, decomposition in (("subnetworks", found), ("random directions", chance_of(found))):
        # Under one reference for all rows every draw is the same.
        n_references = 1 if found.reference is not None else 10
        result = impact(
            decomposition,
            source,
            n_rows=arguments.n_rows,
            n_references=n_references,
            n_top=N_TOP,
        )
        tops[name] = places_of(result)
    pool = [place for top in tops["subnetworks"] for place in top]
    order = torch.randperm(len(pool), generator=generator_of(0, 30)).tolist()
    shuffled = [pool[i] for i in order]
    tops["shuffled"] = [shuffled[i : i + N_TOP] for i in range(0, len(shuffled), N_TOP)]
    line = {"n_rows": arguments.n_rows, "n_subnetworks": len(found)}
    print(json.dumps(line | {n: agreement(g, ids, texts) for n, g in tops.items()}, indent=2))


def _kind(
    kind: str, ids: torch.Tensor, texts: Sequence[str], sample: int, position: int
) -> str | int:
    window: list[int] = ids[sample].tolist()
    if kind == "current token":
        return window[position]
    if kind == "next token":
        # The window's last position has no next token of its own: it agrees with no other.
        return window[position + 1] if position + 1 < len(window) else -1 - sample
    return word_classes([texts[i] for i in window])[position]


if __name__ == "__main__":
    main()
