"""A rule planted in an image classifier: is it found blindly, and can it be taken away?

    SUBSCAPE_DATA=… python experiments/planted_images.py --out runs/planted-images --write docs/open-questions.md

Claim: a subnetwork is what a classifier's block does in some images, not only a class. Three rules "an image with
this 6 x 6 pattern in its corner is of class c" are planted in both kernels of `layer3.0` of a CIFAR ResNet-20, as
changes of low rank: in every step of Adam a random half of the rules is in, those act, and all other images stay
as they were (as in `subscape.planted`). The changed network is decomposed without a word of them, on images of
which each rule has 5 %, or 1 %; control: the network without rules on the same images. 20 subnetworks at L0 1, and
40 at L0 2. Found: a direction to push at 0.8 or more of the |cosine| with ΔW that the rule's own images
reach (first singular vector of their gradients, mean reference), which is given in the metric too; AUROC of the
best code for images held out. Of every rule the subnetwork of the best code is pushed until a tenth of the
target's probability is left: KL of plain images then, beside the same along the labels' direction in the metric
and along ΔW. About 10 minutes of processor time a set of rules; `--set sets=2` makes the table of the page.
"""

from collections.abc import Iterator, Mapping
from math import inf, nan
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from image_planting import N_RULES, Bed, bed
from page import Record, draw, kept, main, slug
from torch import Tensor

import subscape
from subscape import Decomposition, GradientSource, Target
from subscape.divergences import KL
from subscape.measures import auroc
from subscape.measures.recovery import absolute_cosines
from subscape.scorecard.chance import chance_of

FOUND, LEFT = 0.8, 0.1
OPTIONS: dict[str, Any] = {
    "divergence": "kl",
    "rank": (8, 8, 3, 3),
    "batch_size": 128,
    "learning_rate": 0.004,
    "start": "clusters",
}
SETTINGS: dict[str, tuple[float, dict[str, Any]]] = {
    "20 of L0 1": (0.05, {"n_subnetworks": 20, "l0": 1}),
    "20 of L0 1, rules in 1 % each": (0.01, {"n_subnetworks": 20, "l0": 1}),
    "40 of L0 2": (0.05, {"n_subnetworks": 40, "l0": 2}),
}
"""The share of images that each rule has, and how they are decomposed."""


@torch.no_grad()
def planting(own: Bed) -> Record:
    """How well the rules work on images held out, and what they do to plain ones."""
    base, plain = own.target.of(own.base), own.plain
    return {
        **{
            name: [float(probability(target, own, rule)) for rule in range(N_RULES)]
            for name, target in (("before", base), ("after", own.target))
        },
        "kl_plain": float(KL(own.target.outputs(plain), base.outputs(plain)).mean()),
        "relative": [
            float(torch.stack([(c[rule] ** 2).sum() for c in own.changes.values()]).sum() ** 0.5)
            / length_of(base)
            for rule in range(N_RULES)
        ],
    }


def probability(
    target: Target, own: Bed, rule: int, parameters: Mapping[str, Tensor] | None = None
) -> Tensor:
    """Mean probability of a rule's class in its images."""
    logits = target.outputs(own.own(rule), parameters)
    return logits.softmax(-1)[:, own.rules.classes[rule]].mean()


def length_of(target: Target) -> float:
    return float(torch.cat([p.detach().flatten() for p in target.parameters.values()]).norm())


def in_parts(source: GradientSource) -> Iterator[Any]:
    """Gradients of all samples, some at a time."""
    return (source.gradients(source.rows_of(part)) for part in torch.arange(len(source)).split(64))


@torch.no_grad()
def with_labels(own: Bed, result: Decomposition) -> tuple[Tensor, Tensor, Tensor]:
    """Of every rule's images: first direction of their gradients, that to push in the metric, mean gradient."""
    metric = result.geometry.metric
    assert metric is not None and result.reference is not None
    first, to_push, means = [], [], []
    for rule in range(N_RULES):
        own_rows, mean_of = own.held.images[own.held.rule == rule], result.reference
        plain = GradientSource(own.target, own_rows, divergence="kl", reference=mean_of)
        rows = torch.cat([g.flat for g in in_parts(plain)])
        means.append(rows.mean(0))
        first.append(torch.linalg.svd(rows, full_matrices=False).Vh[0])
        inside = torch.cat([g.flat for g in in_parts(result.source(own.target, own_rows))])
        best = torch.linalg.svd(inside, full_matrices=False).Vh[0]
        whole = unflat(own.target, best)
        to_push.append(torch.cat([v.flatten() for v in metric.on_tensors(whole).values()]))
    return torch.stack(first), torch.stack(to_push), torch.stack(means)


def unflat(target: Target, direction: Tensor) -> dict[str, Tensor]:
    """A direction by parameter name."""
    sizes = [p.numel() for p in target.parameters.values()]
    parts = direction.split(sizes)
    return {n: v.view(target.shapes[n]) for n, v in zip(target.names, parts, strict=True)}


@torch.no_grad()
def taken_away(own: Bed, rule: int, direction: Tensor, slope: Tensor) -> float:
    """KL of plain images where a move against the slope leaves `LEFT` of the target's probability, or inf."""
    target, plain = own.target, own.plain
    unit = -direction / direction.norm() * (direction @ slope).sign()
    aim = LEFT * float(probability(target, own, rule))

    def moved(length: float) -> dict[str, Tensor]:
        return target.moved(unflat(target, length * unit))

    longest = 4 * length_of(target)
    low, high = 0.0, longest / 256
    while float(probability(target, own, rule, moved(high))) > aim:
        low, high = high, 2 * high
        if high > longest:
            return inf
    for _ in range(5):
        middle = (low + high) / 2
        enough = float(probability(target, own, rule, moved(middle))) <= aim
        low, high = (low, middle) if enough else (middle, high)
    return float(KL(target.outputs(plain, moved(high)), target.outputs(plain)).mean())


def run(own: Bed, planted: bool, setting: str, seed: int, steps: int) -> Record:
    """One decomposition, and all that is measured of it."""
    model = own.model if planted else own.base
    result = subscape.decompose(
        model,
        own.trained.images,
        heldout=own.held.images,
        parameters=list(own.changes),
        steps=steps,
        seed=seed,
        progress=False,
        **(OPTIONS | SETTINGS[setting][1]),
    )
    truth, directions = own.directions(), result.directions.flat()
    with torch.no_grad():
        parts = in_parts(result.source(model, own.held.images))
        sizes = torch.cat([result.coefficients(g) for g in parts]).abs()
    areas = torch.tensor([
        [auroc(size[own.held.rule == r], size[own.held.rule != r]) for size in sizes.mT]
        for r in range(N_RULES)
    ])
    cosines = absolute_cosines(truth, directions)
    record = {
        "cosines": cosines.amax(1).tolist(),
        "random": absolute_cosines(truth, chance_of(result).directions.flat()).amax(1).tolist(),
        "subnetworks": cosines.argmax(1).tolist(),
        "by_code": areas.argmax(1).tolist(),
        "aurocs": areas.amax(1).tolist(),
        "fvu": result.metrics["fvu"],
    }
    if not planted:
        return record
    first, to_push, slopes = with_labels(own, result)
    record["reach"] = absolute_cosines(truth, first).diagonal().tolist()
    record["reach_in_metric"] = absolute_cosines(truth, to_push).diagonal().tolist()
    pushes = {"subnetwork": directions[areas.argmax(1)], "labels": to_push, "truth": truth}
    for name, each in pushes.items():
        away = [taken_away(own, r, each[r], slopes[r]) for r in range(N_RULES)]
        record[f"kl_{name}"] = [kl if kl < inf else None for kl in away]
    return record


def measure(
    out: Path,
    *,
    sets: int = 1,
    seeds: int = 1,
    steps: int = 100,
    block: str = "layer3.0",
    rank: int = 2,
    plant_steps: int = 500,
    settings: Any = tuple(SETTINGS),
) -> list[Record]:
    def file(name: str) -> Path:
        return out / f"{slug(name)}-{block}-{rank}-{plant_steps}.json"

    records = []
    for setting in settings:
        share = SETTINGS[setting][0]
        beds = [bed(out, number, share, block, rank, plant_steps) for number in range(sets)]
        plans = [
            kept(file(f"planting-{n}"), lambda own=own: planting(own)) for n, own in enumerate(beds)
        ]
        runs: dict[str, list[Record]] = {
            name: [
                kept(
                    file(f"{name} {setting}-{number}-{seed}-{steps}"),
                    lambda own=own, name=name, setting=setting, seed=seed: run(
                        own, name == "planted", setting, seed, steps
                    ),
                )
                for number, own in enumerate(beds)
                for seed in range(seeds)
            ]
            for name in ("planted", "base")
        }
        reach = [r["reach"] for r in runs["planted"]]
        records += [summary(f"{n}, {setting}", each, reach, plans) for n, each in runs.items()]
    return records


def summary(name: str, runs: list[Record], reach: list[list[float]], plans: list[Record]) -> Record:
    """A line of the table."""

    def every(key: str, of: list[Record] = runs) -> list[float]:
        return [value for each in of for value in each.get(key, [])]

    def middle(key: str) -> float:
        """Median over rules, those never taken away counting as the largest."""
        values = [inf if value is None else value for value in every(key)]
        return median(values) if values else nan

    own, asked = every("cosines"), [value for each in reach for value in each]
    return {
        "model": name,
        "found": sum(c >= FOUND * r for c, r in zip(own, asked, strict=True)),
        "rules": len(own),
        "cosine": mean(own),
        "random": mean(every("random")),
        "reach": mean(asked),
        "reach_in_metric": mean(every("reach_in_metric") or [nan]),
        "auroc": mean(every("aurocs")),
        "same": sum(a == b for a, b in zip(every("subnetworks"), every("by_code"), strict=True)),
        "fvu": mean(r["fvu"] for r in runs),
        "before": mean(every("before", plans)),
        "after": mean(every("after", plans)),
        "kl_plain": mean(p["kl_plain"] for p in plans),
        **{f"kl_{key}": middle(f"kl_{key}") for key in ("subnetwork", "labels", "truth")},
    }


COLUMNS = {
    "decomposed": "{model}",
    "rules found": "{found} of {rules}",
    "cosine with ΔW": "{cosine:.2f}",
    "random directions": "{random:.2f}",
    "reached with labels": "{reach:.2f}",
    "in the metric": "{reach_in_metric:.2f}",
    "AUROC": "{auroc:.3f}",
    "nearest has the best code": "{same} of {rules}",
    "FVU": "{fvu:.2f}",
    "KL elsewhere, rule taken away by subnetwork": "{kl_subnetwork:.2g}",
    "by labels": "{kl_labels:.2g}",
    "by ΔW": "{kl_truth:.2g}",
    "target before, planted": "{before:.3f}, {after:.3f}",
    "KL of plain images": "{kl_plain:.2f}",
}


def picture(path: Path, records: list[Record]) -> None:
    at = list(range(len(records)))
    lines = {
        "rules found": (at, [r["found"] / r["rules"] for r in records]),
        "AUROC": (at, [r["auroc"] for r in records]),
        "cosine with ΔW": (at, [r["cosine"] for r in records]),
        "reached with labels": (at, [r["reach"] for r in records]),
    }
    draw(path, lines, x="line of the table", y="share, or cosine", joined=False)


if __name__ == "__main__":
    main("planted-images", __doc__, measure, COLUMNS, picture)
