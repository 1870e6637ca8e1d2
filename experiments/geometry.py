"""Which reference, row weight and metric: one table of what the subnetworks of a real language model are good for.

    SUBSCAPE_DATA=… python experiments/geometry.py --out runs/geometry --write docs/geometry.md

Decomposes one block of `stories260k` under every setting and measures, on rows that were not trained on:

- agree: share of the subnetworks of whose 10 top positions at least 8 share the current token, the next token or
  the word class; distinct: the same of the 10 top positions whose contexts differ. (Windows of text begin with the
  same tokens again and again: rows that are equal fill a list of top positions by themselves, for random
  directions too.);
- ratio, AUROC, share: one subnetwork is pushed until the median KL of its top 1 % rows is 0.1 nats; how much more
  those rows move than the median other row, how well the movement tells them from the others, and how much of all
  movement falls on them (40 subnetworks, both signs averaged);
- stable: share of the subnetworks whose code correlates by at least 0.7 in absolute value with that of their
  one-to-one match in a run with the next seed;
- found, plants: six rank-1 rules planted in the MLP of layer 3 (`subscape.planted`), each in half a percent of the
  rows, decomposed blindly: how many are met by a direction at 0.8 of the cosine that the rule's own gradients
  reach, and the mean AUROC of the best code for a rule's rows; beside both the same of the base model, which has
  no rules, on the same text.

Beside agree, ratio, AUROC and share stand random directions of the same norms and ranks. What was measured is kept
under --out: a run that was stopped goes on. One thread; a setting takes about five minutes.
"""

import argparse
import hashlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import transformers
from token_agreement import (
    N_TOP,
    agreement,
    chance_of,
    distinct_contexts,
    places_of,
    texts_of,
)
from torch import Tensor, nn

import subscape
from subscape import Decomposition, GradientSource, Target
from subscape._io import read_json, read_tensors, write_json, write_tensors, write_text
from subscape.divergences import KL
from subscape.measures import auroc
from subscape.measures.impact import impact
from subscape.measures.recovery import absolute_cosines, match
from subscape.planted import Mixture, Planted, mixture, plant
from subscape.subnetworks.editing import edited_copy

PUBLISHED: dict[str, Any] = {
    "reference": "another-row",
    "row_weight": "norm",
    "metric": "euclidean",
    "metric_power": 0.5,
    "metric_damping": 0.01,
    "n_subnetworks": 100,
    "l0": 10.0,
}


def setting(**changed: Any) -> dict[str, Any]:
    """The published setting with some things changed; with a fixed reference unless another is given."""
    return PUBLISHED | {"reference": "mean"} | changed


WHITE = {"metric": "kronecker"}
SETTINGS = {
    "published": PUBLISHED,
    "norm": setting(),
    "output": setting(row_weight="output"),
    "norm-kronecker": setting(**WHITE),
    "output-kronecker": setting(row_weight="output", **WHITE),
    "unit-kronecker": setting(row_weight="unit", **WHITE),
    "half-kronecker": setting(row_weight=0.5, **WHITE),
    "half-kronecker-few": setting(row_weight=0.5, l0=5.0, rank=0.25, **WHITE),
    "output-kronecker-p.25": setting(row_weight="output", metric_power=0.25, **WHITE),
    "norm-kronecker-p.25": setting(metric_power=0.25, **WHITE),
    "output-kronecker-d.1": setting(row_weight="output", metric_damping=0.1, **WHITE),
    **{
        f"{name}-{n}": setting(row_weight=weight, n_subnetworks=n, **WHITE)
        for n in (200, 400)
        for name, weight in (("norm-kronecker", "norm"), ("half-kronecker", 0.5))
    },
}
TRAINING = {"rank": 0.1, "batch_size": 256, "learning_rate": 0.006}
ATTENTION, MLP = "model.layers.2.self_attn.*", "model.layers.3.mlp.*"
LENGTH = 16
N_AGREE = 20_000
"""Rows among which the top positions are looked for."""
N_REPEATS = 80
"""Top positions looked through for 10 of distinct contexts."""
N_PUSHED, N_WINDOWS, TOP_SHARE, AIM = 40, 256, 0.01, 0.1
N_DRAWS = 10
"""Partners that a row meets, where it has any."""
FOUND = 0.8
CORRELATED = 0.7


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


# Attention: agreement, selectivity, stability


def agrees(result: Decomposition, source: GradientSource, text: Text) -> tuple[float, float]:
    """Share of subnetworks whose 10 top positions agree on something: of all positions, of distinct contexts."""
    found = impact(
        result,
        source,
        n_rows=N_AGREE,
        n_references=n_draws(result),
        n_top=N_REPEATS,
        progress=False,
    )
    places = places_of(found)
    every, distinct = (
        agreement([group[:N_TOP] for group in groups], text.held, text.texts)
        for groups in (places, distinct_contexts(places, text.held))
    )
    kind = "any of the three"
    return every[kind]["share_of_subnetworks"], distinct[kind]["share_of_subnetworks"]


@torch.no_grad()
def pushed(result: Decomposition, target: Target, sizes: Tensor, ids: Tensor) -> dict[str, float]:
    """What pushing single subnetworks does to the rows they are large at, and to the others."""
    own = target.outputs(ids)
    n_top = round(TOP_SHARE * own.shape[0] * own.shape[1])
    figures = []
    for k in range(min(N_PUSHED, len(result))):
        direction = result[k].dense()
        top = torch.zeros(len(sizes), dtype=torch.bool)
        top[sizes[:, k].topk(n_top).indices] = True
        some = top.view(own.shape[:2]).any(1).nonzero()[:, 0]
        inside = top.view(own.shape[:2])[some]

        def moved(delta: float, at: Tensor, direction: Mapping[str, Tensor] = direction) -> Tensor:
            both = []
            for sign in (1, -1):
                changed = {n: target.parameters[n] + sign * delta * v for n, v in direction.items()}
                outputs = target.outputs(ids[at], changed)
                both.append(KL(outputs.flatten(0, 1), own[at].flatten(0, 1)).view(-1, LENGTH))
            return torch.stack(both).mean(0)

        delta = delta_at(lambda d, m=moved, s=some, i=inside: float(m(d, s)[i].median()))
        if delta is None:
            continue
        change = moved(delta, torch.arange(len(ids))).flatten()
        figures.append({
            "ratio": float(change[top].median() / change[~top].median().clamp_min(1e-12)),
            "auroc": auroc(change[top], change[~top]),
            "share": float(change[top].sum() / change.sum()),
        })
    middle = {n: float(torch.tensor([f[n] for f in figures]).median()) for n in figures[0]}
    return middle | {"pushed": len(figures)}


def delta_at(size: Callable[[float], float]) -> float | None:
    """How far to push until the median change is what is aimed at; None where it never is."""
    low, high, delta = 0.0, float("inf"), 1.0
    for _ in range(30):
        value = size(delta)
        if abs(value - AIM) < 0.05 * AIM:
            return delta
        low, high = (delta, high) if value < AIM else (low, delta)
        # Near zero the change grows with the square of how far one goes.
        guess = delta * (AIM / max(value, AIM / 100)) ** 0.5
        inside = low < guess < high
        delta = guess if inside else (low * high) ** 0.5 if low > 0 and high < 1e9 else guess
        if delta > 1e3:
            return None
    return None


def stability(codes: Tensor, others: Tensor) -> float:
    """Share of codes that correlate with that of their match in another run."""

    def standard(values: Tensor) -> Tensor:
        centred = values.double() - values.double().mean(0)
        return centred / centred.norm(dim=0).clamp_min(1e-30)

    correlation = (standard(codes).mT @ standard(others)).abs()
    return float((correlation[match(correlation)] >= CORRELATED).double().mean())


def attention(folder: Path, text: Text, options: dict[str, Any], seed: int) -> dict[str, Any]:
    """All figures of the attention block."""

    def run(seed: int) -> tuple[Decomposition, float]:
        return decomposed(
            folder / f"attention-{seed}",
            text.model,
            text.trained,
            text.held,
            seed,
            options | {"parameters": ATTENTION},
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
        "stable": stability(codes, theirs),
        "seconds": seconds,
        **pushed(result, source.target, sizes, text.held[samples]),
        "random": pushed(random, source.target, random_sizes, text.held[samples]),
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


# The table


def measured(out: Path, name: str, text: Text, arguments: argparse.Namespace) -> list[dict]:
    """One record per seed, each from its file if that is there."""
    options = TRAINING | SETTINGS[name] | {"steps": arguments.steps}
    digest = hashlib.sha256(repr(sorted(options.items())).encode()).hexdigest()[:8]
    folder = out / f"{name}-{digest}"
    records = []
    for seed in range(arguments.seeds):
        record: dict[str, Any] = {}
        parts: dict[str, Callable[[], dict]] = {
            "attention": lambda seed=seed: attention(folder, text, options, 10 * seed)
        }
        for name_, number in product(("planted", "base"), range(arguments.plants)):
            parts[f"{name_}-{number}"] = lambda seed=seed, name=name_, number=number: plants(
                out, folder, text, options, 10 * seed, number, name
            )
        for part, make in parts.items():
            file = folder / f"{part}-seed-{seed}.json"
            if part.split("-")[0] not in arguments.parts and not file.exists():
                continue
            if not file.exists():
                start = time.perf_counter()
                write_json(file, make())
                print(f"{name} seed {seed} {part}: {time.perf_counter() - start:.0f} s", flush=True)
            record[part] = read_json(file)
        records.append(record)
    return records


PARTS = ("attention", "planted", "base")
COLUMNS = {
    "agree": (lambda r: r["attention"]["agree"], "{:.0%}"),
    "agree, random": (lambda r: r["attention"]["agree_random"], "{:.0%}"),
    "distinct": (lambda r: r["attention"]["agree_distinct"], "{:.0%}"),
    "distinct, random": (lambda r: r["attention"]["agree_distinct_random"], "{:.0%}"),
    "ratio": (lambda r: r["attention"]["ratio"], "{:.0f}"),
    "AUROC": (lambda r: r["attention"]["auroc"], "{:.2f}"),
    "share": (lambda r: r["attention"]["share"], "{:.0%}"),
    "pushed at random": (lambda r: r["attention"]["random"], "{}"),
    "stable": (lambda r: r["attention"]["stable"], "{:.0%}"),
    "found": (lambda r: _plants(r, "planted", lambda p: p["found"]), "{:.1f}"),
    "found in base": (lambda r: _plants(r, "base", lambda p: p["found"]), "{:.1f}"),
    "cosine": (lambda r: _plants(r, "planted", lambda p: mean(p["cosines"])), "{:.2f}"),
    "plants": (lambda r: _plants(r, "planted", lambda p: mean(p["aurocs"])), "{:.3f}"),
    "plants in base": (lambda r: _plants(r, "base", lambda p: mean(p["aurocs"])), "{:.3f}"),
    "FVU": (lambda r: r["attention"]["fvu"], "{:.2f}"),
    "seconds": (lambda r: r["attention"]["seconds"], "{:.0f}"),
}
JUDGED = ("distinct", "ratio", "AUROC", "share", "stable", "found", "plants")
"""Columns by which settings are ranked: of all more is better, and none depends on the metric."""


def _plants(record: dict, name: str, figure: Callable[[dict], float]) -> float:
    values = [figure(value) for part, value in record.items() if part.startswith(name)]
    return mean(values) if values else float("nan")


def table(results: Mapping[str, list[dict]]) -> str:
    """The figures of all settings, with the mean rank of each over the columns judged."""
    values = {
        name: {column: [of(r) for r in records] for column, (of, _) in COLUMNS.items()}
        for name, records in results.items()
    }
    ranks = {name: [] for name in values}
    for column in JUDGED:
        means = {name: mean(v[column]) for name, v in values.items()}
        if any(m != m for m in means.values()):
            continue  # not measured everywhere
        for name in values:
            better = sum(m > means[name] for m in means.values())
            equal = sum(m == means[name] for m in means.values())
            ranks[name].append(better + (equal + 1) / 2)
    lines = [
        ["setting", "reference", "row weight", "metric", "K", "L0", "rank", *COLUMNS, "mean rank"]
    ]
    for name, columns in values.items():
        own = SETTINGS[name]
        power, damping = own["metric_power"], own["metric_damping"]
        white = f"Kronecker, p {power}, λ {damping}"
        lines.append([
            name,
            own["reference"],
            str(own["row_weight"]),
            white if own["metric"] == "kronecker" else "Euclidean",
            str(own["n_subnetworks"]),
            f"{own['l0']:g}",
            f"{own.get('rank', TRAINING['rank']):g}",
            *(_shown(columns[c], form) for c, (_, form) in COLUMNS.items()),
            f"{mean(ranks[name]):.1f}" if ranks[name] else "",
        ])
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _shown(values: list, form: str) -> str:
    if isinstance(values[0], dict):
        ratio, area, share = (mean(v[k] for v in values) for k in ("ratio", "auroc", "share"))
        return f"{ratio:.1f}; {area:.2f}; {share:.0%}"
    if values[0] != values[0]:
        return ""
    lowest = f" ({form.format(min(values))})" if len(values) > 1 else ""
    return form.format(mean(values)) + lowest


def write_into(page: Path, text: str) -> None:
    """Put the table between the page's two marks."""
    before, rest = page.read_text(encoding="utf-8").split("<!-- table -->\n", 1)
    after = rest.split("<!-- end of table -->", 1)[1]
    write_text(page, f"{before}<!-- table -->\n{text}\n<!-- end of table -->{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--plants", type=int, default=1, help="sets of plants")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--write", type=Path, help="page to put the table into")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    text = Text.load()
    results = {}
    for name in arguments.settings:
        results[name] = measured(arguments.out, name, text, arguments)
        write_json(arguments.out / "geometry.json", {"settings": SETTINGS, "results": results})
        write_text(arguments.out / "geometry.md", table(results) + "\n")
    print(table(results))
    if arguments.write:
        write_into(arguments.write, table(results))


if __name__ == "__main__":
    main()
