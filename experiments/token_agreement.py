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
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from subscape import Decomposition
from subscape.cli.loading import load_data, load_model, load_tokenizer
from subscape.measures import Impact, random_like
from subscape.measures.impact import impact
from subscape.rows import generator_of
from subscape.subnetworks.dictionary import Dictionary

N_TOP, ENOUGH = 10, 8
KINDS = ("current token", "next token", "word class")
Place = tuple[int, int]
"""A sample and a position in it."""
CLOSED = {
    "determiner": "a an the this that these those every each some any no another all both",
    "pronoun": "i you he she it we they me him her us them his its my your our their mine yours hers "
    "who what which one everyone someone something nothing everything himself herself",
    "preposition": "in on at to from with by of for into onto over under up down out off through around "
    "near behind after before about like until inside outside between against",
    "conjunction": "and or but so because if when while as than then",
    "auxiliary": "is was were are be been am do does did done have has had will would can could should "
    "must may might not n't",
}
CLASS_OF = {word: name for name, words in CLOSED.items() for word in words.split()}


def word_class(word: str, after_stop: bool) -> str:
    """The class of a word by closed lists, endings and capitals; there is no tagger to install."""
    bare = word.strip()
    lower = bare.lower()
    if not bare:
        return "space"
    if not any(c.isalnum() for c in bare):
        return "quotation mark" if set(bare) <= set("\"'“”‘’") else f"punctuation {bare[0]}"
    if lower in CLASS_OF:
        return CLASS_OF[lower]
    if bare[0].isdigit():
        return "number"
    if bare[0].isupper() and not after_stop:
        return "name"
    for ending, name in (("ly", "adverb"), ("ing", "-ing form"), ("ed", "past form")):
        if lower.endswith(ending) and len(lower) > len(ending) + 2:
            return name
    return f"word {lower}"  # of no class: only with itself


def classes(texts: list[str]) -> list[str]:
    """The class of the word that each token of a window belongs to."""
    words: list[list[int]] = []
    for i, text in enumerate(texts):
        starts = text.startswith((" ", "\n", "<")) or not text.strip(" ").isalnum()
        previous = texts[i - 1] if i else ""
        if starts or not words or not previous.strip(" ").isalnum():
            words.append([])
        words[-1].append(i)
    found = [""] * len(texts)
    stop = True
    for places in words:
        word = "".join(texts[i] for i in places)
        name = word_class(word, stop)
        for i in places:
            found[i] = name
        if word.strip():
            stop = word.strip()[-1] in '.!?"”“\n>'
    return found


def largest(kinds: list) -> int:
    """Size of the largest group of equal ones."""
    return Counter(kinds).most_common(1)[0][1]


def texts_of(tokenizer: Any) -> list[str]:
    """Every token as it stands in a text."""
    tokens = [tokenizer.convert_ids_to_tokens(i) for i in range(len(tokenizer))]
    return [" " + t[1:] if t.startswith("▁") else {"<0x0A>": "\n"}.get(t, t) for t in tokens]


def places_of(result: Impact) -> list[list[Place]]:
    """Sample and position of the top rows of every subnetwork."""
    return [
        list(zip(t.rows.samples.tolist(), t.rows.position.tolist(), strict=True))
        for t in result.top
    ]


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


def chance_of(found: Decomposition) -> Decomposition:
    """Random directions to push, of the same norms and ranks, that rows are read by as well."""
    control, metric = random_like(found.directions), found.geometry.metric
    inside = control if metric is None else metric.to_gradients(control)
    dictionary = Dictionary(inside, inside, found.dictionary.selection)
    return replace(found, dictionary=dictionary.requires_grad_(False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--window", type=int, default=16)
    parser.add_argument("--n-rows", type=int, default=20_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    texts = texts_of(load_tokenizer(arguments.model))
    ids = load_data(arguments.data, arguments.model, arguments.window)["input_ids"]
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
    line = {"n_rows": arguments.n_rows, "subnetworks": len(found)}
    print(json.dumps(line | {n: agreement(g, ids, texts) for n, g in tops.items()}, indent=2))


def _kind(
    kind: str, ids: torch.Tensor, texts: Sequence[str], sample: int, position: int
) -> str | int:
    window = ids[sample].tolist()
    if kind == "current token":
        return window[position]
    if kind == "next token":
        # The window's last position has no next token of its own: it agrees with no other.
        return window[position + 1] if position + 1 < len(window) else -1 - sample
    return classes([texts[i] for i in window])[position]


if __name__ == "__main__":
    main()
