"""What `geometry.py` measures of one decomposition of `stories260k`: agreement, selectivity, stability, plants."""

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from token_agreement import N_TOP, agreement, places_of, texts_of
from torch import Tensor, nn

import subscape
from subscape import Decomposition, GradientSource, Target
from subscape._io import read_json, read_tensors, write_json, write_tensors
from subscape.measures import auroc
from subscape.measures.impact import impact
from subscape.measures.recovery import absolute_cosines
from subscape.planted import Mixture, Planted, mixture, plant
from subscape.rows import permutation
from subscape.scorecard import pushes
from subscape.scorecard.chance import chance_of
from subscape.scorecard.pushes import Scene
from subscape.scorecard.stability import figures as counterparts
from subscape.subnetworks.editing import edited_copy

ATTENTION, MLP = "model.layers.2.self_attn.*", "model.layers.3.mlp.*"
"""Where subnetworks are measured, and where rules are planted."""
BLOCKS = {
    "attention": ATTENTION,
    "mlp": "model.layers.2.mlp.*",
    "every-attention": "model.layers.*.self_attn.*",
}
LENGTH = 16
N_AGREE = 20_000
"""Rows among which the top positions are looked for."""
N_PUSHED, N_WINDOWS, AIM = 40, 256, 0.1
N_DRAWS = 10
"""Partners that a row meets, where it has any."""
FOUND = 0.8


@dataclass(frozen=True)
class Text:
    """The base model and the text."""

    model: nn.Module
    texts: list[str]
    trained: Tensor
    held: Tensor

    @classmethod
    def load(cls) -> "Text":
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        data = Path(os.environ["SUBSCAPE_DATA"])
        model = transformers.AutoModelForCausalLM.from_pretrained(data / "stories260k").eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(data / "stories260k")
        trained, held = (
            subscape.text_windows(data / "tinystories" / name, tokenizer, length=LENGTH)[
                "input_ids"
            ]
            for name in ("train_sample.txt", "heldout_sample.txt")
        )
        return cls(model, texts_of(tokenizer), trained, held)


# One decomposition


def decomposed(
    folder: Path, model: nn.Module, ids: Tensor, held: Tensor, seed: int, options: dict[str, Any]
) -> tuple[Decomposition, float]:
    """A decomposition and the processor seconds it took; from the folder if it is there."""
    if (folder / "seconds.json").exists():
        return Decomposition.from_pretrained(folder / "final"), read_json(folder / "seconds.json")
    start = time.process_time()
    result = subscape.decompose(
        model,
        ids,
        heldout=held,
        divergence="kl",
        rows="token",
        seed=seed,
        progress=False,
        **options,
    )
    seconds = time.process_time() - start
    result.save_pretrained(folder / "final", overwrite=True)
    write_json(folder / "seconds.json", seconds)
    return result, seconds


@torch.no_grad()
def coefficients(
    result: Decomposition, source: GradientSource, samples: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean size of every coefficient over partners, and the codes under the first of them."""
    sizes, codes = [], []
    for part in samples.split(16):
        draws = [source.rows_of(part, draw=d) for d in range(n_draws(result))]
        found = [result.coefficients(g) for g in source.gradients_over(draws)]
        sizes.append(torch.stack([c.abs() for c in found]).mean(0))
        codes.append(found[0] * result.dictionary.selection.alone(found[0]))
    return torch.cat(sizes), torch.cat(codes)


def n_draws(result: Decomposition) -> int:
    """With one reference for all rows there is nothing to draw."""
    return N_DRAWS if result.reference is None else 1


# Blocks: agreement, selectivity, stability


def agrees(result: Decomposition, source: GradientSource, text: Text) -> tuple[float, float]:
    """Share of subnetworks whose 10 top positions agree on something: of all rows, of distinct contexts."""
    windows = permutation(len(source), source.seed, 0)[: N_AGREE // LENGTH]
    sizes, _ = coefficients(result, source, windows)
    best, position = sizes.unflatten(0, (-1, LENGTH)).max(1)
    copies_too = [
        [
            (int(windows[window]), int(position[window, k]))
            for window in best[:, k].topk(N_TOP).indices
        ]
        for k in range(len(result))
    ]
    settings: dict[str, Any] = {
        "n_rows": N_AGREE,
        "n_references": n_draws(result),
        "n_top": N_TOP,
    }
    distinct = places_of(impact(result, source, progress=False, **settings))
    every, some = (agreement(p, text.held, text.texts) for p in (copies_too, distinct))
    kind = "any of the three"
    return every[kind]["share_of_subnetworks"], some[kind]["share_of_subnetworks"]


@torch.no_grad()
def pushed(
    result: Decomposition, source: GradientSource, sizes: Tensor, samples: Tensor
) -> dict[str, float | None]:
    """What pushing single subnetworks does to the rows they are large at, and to others.

    None where none moves its rows as far as is aimed at.
    """
    scene = Scene.of(source, samples, AIM)
    some = torch.arange(min(N_PUSHED, len(result)))
    found = pushes.pushed(scene, result.directions.select(some), sizes[:, some])
    figures = zip(("ratio", "auroc", "share"), pushes.middle(found), strict=True)
    return dict(figures) | {"pushed": len(found)}


def block(
    folder: Path, text: Text, options: dict[str, Any], seed: int, name: str
) -> dict[str, Any]:
    """All figures of a block."""

    def run(seed: int) -> tuple[Decomposition, float]:
        return decomposed(
            folder / f"{name}-{seed}",
            text.model,
            text.trained,
            text.held,
            seed,
            options | {"parameters": BLOCKS[name]},
        )

    (result, seconds), (other, _) = run(seed), run(seed + 1)
    source = result.source(text.model, text.held)
    chance = chance_of(result)
    samples = torch.arange(N_WINDOWS)
    (sizes, codes), (random_sizes, _) = (
        coefficients(one, source, samples) for one in (result, chance)
    )
    theirs = coefficients(other, other.source(text.model, text.held), samples)[1]
    random = replace(chance, geometry=result.geometry)
    agree, agree_random = (agrees(one, source, text) for one in (result, chance))
    return {
        "fvu": result.metrics["fvu"],
        "l0": result.metrics["l0"],
        "dead": result.metrics["dead"],
        "agree": agree[0],
        "agree_distinct": agree[1],
        "agree_random": agree_random[0],
        "agree_distinct_random": agree_random[1],
        "stable": counterparts(codes, theirs)[0],
        "seconds": seconds,
        **pushed(result, source, sizes, samples),
        "random": pushed(random, source, random_sizes, samples),
    }


# Plants


def plants_of(folder: Path, text: Text, number: int) -> Planted:
    """One set of plants, the same for every setting."""
    file = folder / f"plants-{number}.safetensors"
    if not file.exists():
        made = plant(text.model, text.trained, MLP, seed=number)
        changes = {f"changes.{name}": change for name, change in made.changes.items()}
        rest = {
            name: getattr(made, name) for name in ("triggers", "targets", "probability", "before")
        }
        write_tensors(file, changes | rest | {"kl": torch.tensor(made.kl)})
    kept = read_tensors(file)
    # In model order, in which directions are flattened; a file has its own.
    names = Target(text.model, MLP).names
    changes = {name: kept.pop(f"changes.{name}") for name in names}
    model = edited_copy(text.model, {name: change.sum(0) for name, change in changes.items()})
    return Planted(model=model, changes=changes, kl=float(kept.pop("kl")), **kept)


@torch.no_grad()
def reachable(planted: Planted, held: Mixture) -> Tensor:
    """|cos| of every rule's ΔW with the first singular vector of the gradients of its rows."""
    target = Target(planted.model, list(planted.changes))
    source = GradientSource(target, held.ids, divergence="kl", reference="mean", rows="token")
    best = []
    for rule, direction in enumerate(planted.directions()):
        at = (held.labels == rule).nonzero()[:200]
        rows = source.gradients(source.rows_of(at[:, 0]))
        own = torch.arange(len(at)) * LENGTH + at[:, 1]
        weights = torch.zeros(len(at), rows.n_rows)
        weights[torch.arange(len(at)), own] = 1.0
        first = torch.linalg.svd(rows.combined(weights), full_matrices=False).Vh[0]
        best.append(float((first @ direction).abs()))
    return torch.tensor(best)


def recovered(
    folder: Path,
    model: nn.Module,
    planted: Planted,
    rows: tuple[Mixture, Mixture],
    seed: int,
    options: dict[str, Any],
) -> dict[str, Any]:
    """How well a model's subnetworks are the plants, and tell their rows."""
    trained, held = rows
    options = options | {"parameters": MLP}
    result, seconds = decomposed(folder, model, trained.ids, held.ids, seed, options)
    cosines = absolute_cosines(planted.directions(), result.directions.flat()).amax(1)
    picked = torch.arange(min(len(held.ids), 4 * N_WINDOWS))
    sizes, _ = coefficients(result, result.source(model, held.ids), picked)
    labels = held.labels[picked].flatten()
    best = [
        max(auroc(size[labels == rule], size[labels != rule][::4]) for size in sizes.mT)
        for rule in range(len(planted.triggers))
    ]
    return {
        "cosines": cosines.tolist(),
        "aurocs": best,
        "fvu": result.metrics["fvu"],
        "seconds": seconds,
    }


def plants(
    out: Path, folder: Path, text: Text, options: dict[str, Any], seed: int, number: int, name: str
) -> dict[str, Any]:
    """Recovery of one set of plants, from the model with them or from the base model."""
    planted = plants_of(out, text, number)
    trained, held = (
        mixture(ids, planted.triggers, seed=number) for ids in (text.trained, text.held[:4000])
    )
    reach = reachable(planted, held)
    model = planted.model if name == "planted" else text.model
    path = folder / f"{name}-{number}-{seed}"
    figures = recovered(path, model, planted, (trained, held), seed, options)
    met = torch.tensor(figures["cosines"]) >= FOUND * reach
    plan = {"reach": reach.tolist(), "kl": planted.kl, "probability": planted.probability.tolist()}
    return plan | figures | {"found": int(met.sum())}
