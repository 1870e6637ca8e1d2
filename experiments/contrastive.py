"""Contrastive pairs: do six subnetworks hold six planted rules, each row beside its window without the trigger?

    SUBSCAPE_DATA=… python experiments/contrastive.py --out runs/contrastive --write docs/open-questions.md

Claim: curated pairs need few subnetworks. Windows of text whose last token is the trigger of one of six rules
planted in the MLP of layer 3 of stories260k; a row's reference is the model's output on the same window with
a token there that the text does not have. Six subnetworks, one active per row. Found: a direction to push at
0.8 or more of the cosine with ΔW that the first singular vector of the rule's own gradients (mean reference,
no metric) reaches; AUROC of the best code for a rule's rows among those of the others. Controls: the base
model without rules on the same pairs; and pairs that are shuffled, each window with the counterpart of
another one. About 4 minutes on one core. Expected: 6 of 6.
"""

from pathlib import Path
from statistics import mean
from typing import Any

import torch
from geometry_measures import FOUND, MLP, Text
from page import Record, draw, kept, main, slug
from planting import Bed, told_apart
from torch import Tensor, nn

import subscape
from subscape import Pairs, Target
from subscape.measures.recovery import absolute_cosines
from subscape.rows import generator_of

N_PAIRS, N_HELDOUT, LENGTH = 1_200, 600, 8


def last_logits(model: Any, ids: Tensor) -> Tensor:
    """The prediction after a window."""
    return model(input_ids=ids).logits[:, -1]


def windows(ids: Tensor, triggers: Tensor, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Windows that end in a trigger, and which."""
    chosen = ids[torch.randperm(len(ids), generator=generator_of(seed, 90))[:n], -LENGTH:].clone()
    rules = torch.arange(len(chosen)) % len(triggers)
    chosen[:, -1] = triggers[rules]
    return chosen, rules


def unused(ids: Tensor, size: int) -> int:
    """A token that the text does not have, not one of the special ones at the beginning."""
    counts = torch.bincount(ids.flatten(), minlength=size)
    return int((counts == 0).nonzero()[:, 0].max())


@torch.no_grad()
def counterparts(model: nn.Module, inputs: Tensor, token: int) -> Tensor:
    other = inputs.clone()
    other[:, -1] = token
    return torch.cat([last_logits(model, part) for part in other.split(128)])


SETTINGS: dict[str, tuple[str, bool, str]] = {
    "pairs, whitened": ("planted", False, "whitened"),
    "pairs, published geometry": ("planted", False, "published"),
    "base model, published geometry": ("base", False, "published"),
    "shuffled pairs, published geometry": ("planted", True, "published"),
}


def run(bed: Bed, text: Text, setting: str, seed: int, steps: int) -> Record:
    on, shuffled, recipe = SETTINGS[setting]
    model = bed.planted.model if on == "planted" else text.model
    token = unused(text.trained, len(text.texts))
    data, rules = windows(text.trained, bed.planted.triggers, N_PAIRS, seed)
    references = counterparts(model, data, token)
    if shuffled:
        references = references[torch.randperm(len(data), generator=generator_of(seed, 91))]
    result = subscape.decompose(
        Target(model, MLP, outputs=last_logits),
        data,
        reference=Pairs(references),
        recipe=recipe,
        divergence="kl",
        n_subnetworks=len(bed.planted.triggers),
        l0=1.0,
        rank=1,
        steps=steps,
        batch_size=128,
        seed=seed,
        progress=False,
    )
    fresh, of_fresh = windows(text.held, bed.planted.triggers, N_HELDOUT, seed + 1)
    source = result.source(
        Target(model, MLP, outputs=last_logits),
        fresh,
        reference=Pairs(counterparts(model, fresh, token)),
    )
    sizes = result.coefficients(source.gradients(source.rows_of(torch.arange(len(fresh))))).abs()
    cosines = absolute_cosines(bed.planted.directions(), result.directions.flat())
    best = cosines.max(1)
    return {
        "found": int((best.values >= FOUND * bed.reach).sum()),
        "distinct": len(set(best.indices[best.values >= FOUND * bed.reach].tolist())),
        "cosines": best.values.tolist(),
        "reach": bed.reach.tolist(),
        "aurocs": told_apart(sizes, of_fresh, len(bed.reach)),
        "fvu": result.metrics["fvu"],
    }


def measure(
    out: Path, *, sets: int = 2, seeds: int = 1, steps: int = 300, settings: Any = SETTINGS
) -> list[Record]:
    text = Text.load()
    records = []
    for name in settings:
        runs = [
            kept(
                out / f"{slug(name)}-{number}-{seed}-{steps}.json",
                lambda name=name, number=number, seed=seed: run(
                    Bed(out.parent / "stories", text, number), text, name, seed, steps
                ),
            )
            for number in range(sets)
            for seed in range(seeds)
        ]
        records.append({
            "pairs": name,
            "rules": 6 * len(runs),
            "found": sum(r["found"] for r in runs),
            "distinct": sum(r["distinct"] for r in runs),
            "cosine": mean(mean(r["cosines"]) for r in runs),
            "reach": mean(mean(r["reach"]) for r in runs),
            "auroc": mean(mean(r["aurocs"]) for r in runs),
            "fvu": mean(r["fvu"] for r in runs),
        })
    return records


COLUMNS = {
    "pairs": "{pairs}",
    "rules found": "{found} of {rules}",
    "by subnetworks of their own": "{distinct}",
    "cosine with ΔW": "{cosine:.2f}",
    "reached with labels": "{reach:.2f}",
    "AUROC": "{auroc:.3f}",
    "FVU": "{fvu:.2f}",
}


def picture(path: Path, records: list[Record]) -> None:
    at = list(range(len(records)))
    lines = {
        "rules found": (at, [r["found"] / r["rules"] for r in records]),
        "AUROC": (at, [r["auroc"] for r in records]),
    }
    draw(path, lines, x="line of the table", y="share", joined=False)


if __name__ == "__main__":
    main("contrastive", __doc__, measure, COLUMNS, picture)
