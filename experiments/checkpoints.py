"""During fine-tuning: which subnetworks stay, appear and vanish while a model learns something that is known?

    SUBSCAPE_DATA=… python experiments/checkpoints.py --out runs/checkpoints --write docs/checkpoints.md

The MLP of layer 3 of stories260k is fine-tuned until six rules "after this token comes that one" are in it; all
other rows are held where they were by a KL penalty. At every checkpoint the MLP is decomposed in two ways: with
one dictionary, which goes on from the checkpoint before (its metric and reference stay those of the first), and
separately, with another seed each. Subnetworks of neighbouring checkpoints are matched one to one by their codes
on the same rows, which were not trained on: those that correlate by at least .7 stay; the others have vanished,
and as many have appeared. Control: the first checkpoint decomposed by two seeds, and its one dictionary trained
on without fine-tuning.

Rules: mean probability of their targets at their rows; and how well they are *met*, the mean over rules of the
largest |cosine|, in the metric, of a subnetwork with the gradient of the target's log-probability at the rule's
rows. About 12 minutes on one core. Expected: subnetworks appear for the rules, most others stay.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from geometry_measures import MLP, Text, coefficients, decomposed
from page import Record, draw, kept, main
from torch import Tensor, nn

from subscape import Decomposition, Target
from subscape._io import read_tensors, write_tensors
from subscape.divergences import KL
from subscape.measures.recovery import match
from subscape.planted import Mixture, mixture, plant
from subscape.rows import generator_of
from subscape.scorecard.stability import correlations
from subscape.subnetworks.editing import edited_copy
from subscape.training.refit import refit

STEPS = (0, 10, 30, 100, 300)
"""At which the fine-tuning is looked at."""
N_RULES, PENALTY, RATE, WINDOWS = 6, 3.0, 1e-3, 48
SAME = 0.7
N_COMPARED = 600
"""Windows on which codes are compared."""
N_ROWS = 100
"""Windows over which a rule's gradient is taken."""


# Fine-tuning


def tuned(
    out: Path, text: Text, rules: tuple[Tensor, Tensor], steps: tuple[int, ...]
) -> list[nn.Module]:
    """The model at every checkpoint."""
    target = Target(text.model, MLP)
    files = [out / f"checkpoint-{step}.safetensors" for step in steps]
    if not all(file.exists() for file in files):
        out.mkdir(parents=True, exist_ok=True)
        _tune(target, text.trained, rules, dict(zip(steps, files, strict=True)))
    return [
        edited_copy(text.model, read_tensors(file)) if step else text.model
        for step, file in zip(steps, files, strict=True)
    ]


def _tune(
    target: Target, ids: Tensor, rules: tuple[Tensor, Tensor], files: dict[int, Path]
) -> None:
    triggers, targets = rules
    own = {name: p.detach() for name, p in target.parameters.items()}
    leaves = {name: p.clone().requires_grad_(True) for name, p in own.items()}
    optimiser = torch.optim.Adam(leaves.values(), lr=RATE)
    generator = generator_of(0, 130)
    for step in range(max(files) + 1):
        if step in files:
            changes = {name: (leaf - own[name]).detach() for name, leaf in leaves.items()}
            write_tensors(files[step], changes)
        picked = torch.randint(0, len(ids), (WINDOWS,), generator=generator)
        batch = mixture(ids[picked], triggers, share=1 / N_RULES / ids.shape[1], seed=step)
        with torch.no_grad():
            before = target.outputs(batch.ids)
        logits = target.outputs(batch.ids, leaves)
        acts = batch.labels >= 0
        wanted = targets[batch.labels[acts]]
        loss = nn.functional.cross_entropy(logits[acts], wanted)
        loss = loss + PENALTY * KL(logits[~acts], before[~acts]).mean()
        slopes = torch.autograd.grad(loss, list(leaves.values()))
        for leaf, slope in zip(leaves.values(), slopes, strict=True):
            leaf.grad = slope
        optimiser.step()


# What is the same, and what is a rule's


class Compared:
    """Decompositions of one block, compared by their codes on the same windows."""

    def __init__(self, model: nn.Module, result: Decomposition, held: Mixture) -> None:
        self.model, self.result, self.held = model, result, held
        source = result.source(model, held.ids)
        windows = torch.arange(min(N_COMPARED, len(held.ids)))
        self.sizes, self.codes = coefficients(result, source, windows)

    def stays(self, other: "Compared") -> float:
        """Share of subnetworks whose code is that of their match."""
        correlation = correlations(self.codes, other.codes)
        return float((correlation[match(correlation)] >= SAME).double().mean())


@torch.no_grad()
def behaviour(model: nn.Module, held: Mixture, targets: Tensor) -> float:
    """Mean probability of the rules' targets at their rows."""
    at = held.labels >= 0
    logits = Target(model, MLP).outputs(held.ids)[at]
    chances = logits.softmax(-1).gather(1, targets[held.labels[at]][:, None])
    return float(chances.mean())


def met(run: Compared, targets: Tensor) -> float:
    """Mean over rules of |cos| of the rule's gradient with the subnetwork that is nearest to it, in the metric."""
    held, target = run.held, run.result.target_in(run.model)
    metric = run.result.geometry.metric
    assert metric is not None
    cosines = []
    for rule, token in enumerate(targets):
        windows = (held.labels == rule).any(1).nonzero()[:N_ROWS, 0]
        leaves = {n: p.detach().clone().requires_grad_(True) for n, p in target.parameters.items()}
        logits = target.outputs(held.ids[windows], leaves)[held.labels[windows] == rule]
        value = logits.log_softmax(-1)[:, token].mean()
        slopes = torch.autograd.grad(value, list(leaves.values()))
        inside = metric.on_tensors(dict(zip(leaves, slopes, strict=True)))
        flat = torch.cat([inside[t.name].flatten() for t in run.result.layout.tensors])
        best = nn.functional.normalize(run.result.decoder.flat(), dim=1) @ (flat / flat.norm())
        cosines.append(float(best.abs().max()))
    return sum(cosines) / len(cosines)


# Along the run


def measure(
    out: Path,
    *,
    steps: int = 400,
    refit_steps: int = 200,
    n_subnetworks: int = 100,
    plant_steps: int = 1,
    checkpoints: tuple[int, ...] = STEPS,
) -> list[Record]:
    text = Text.load()
    # Which tokens the rules are of, as `plant` draws them.
    drawn = plant(text.model, text.trained, MLP, steps=plant_steps)
    rules = (drawn.triggers, drawn.targets)
    trained, held = (mixture(ids, rules[0]) for ids in (text.trained, text.held[:4000]))
    options: dict[str, Any] = {
        "steps": steps,
        "n_subnetworks": n_subnetworks,
        "parameters": MLP,
    }
    name = f"{steps}-{refit_steps}-{n_subnetworks}"
    models = tuned(out, text, rules, checkpoints)

    def separately(model: nn.Module, checkpoint: int, seed: int) -> Compared:
        folder = out / f"separate-{name}-{checkpoint}-{seed}"
        result, _ = decomposed(folder, model, trained.ids, held.ids, seed, options)
        return Compared(model, result, held)

    def further(model: nn.Module, before: Compared, label: str) -> Compared:
        folder = out / f"one-{name}-{label}"
        result = replace(before.result, target=Target(model, MLP).fingerprint())
        if not (folder / "config.json").exists():
            refit(
                result, model, trained.ids, heldout=held.ids, steps=refit_steps, progress=False
            ).save_pretrained(folder, overwrite=True)
        return Compared(model, Decomposition.from_pretrained(folder), held)

    def along() -> list[Record]:
        one, apart = separately(models[0], 0, 0), separately(models[0], 0, 10)
        records = [
            line("0 (control)", models[0], one, further(models[0], one, "control"), one, apart)
        ]
        before, before_apart = one, one
        for step, model in zip(checkpoints[1:], models[1:], strict=True):
            now = further(model, before, str(step))
            now_apart = separately(model, step, 10 + step)
            records.append(line(str(step), model, before, now, before_apart, now_apart))
            before, before_apart = now, now_apart
        return records

    def line(
        step: str,
        model: nn.Module,
        before: Compared,
        now: Compared,
        before_apart: Compared,
        now_apart: Compared,
    ) -> Record:
        return {
            "step": step,
            "behaviour": behaviour(model, held, rules[1]),
            "one": before.stays(now),
            "one_fvu": now.result.metrics["fvu"],
            "one_met": met(now, rules[1]),
            "apart": before_apart.stays(now_apart),
            "apart_fvu": now_apart.result.metrics["fvu"],
            "apart_met": met(now_apart, rules[1]),
        }

    return kept(out / f"records-{name}-{'-'.join(map(str, checkpoints))}.json", along)


COLUMNS = {
    "steps of fine-tuning": "{step}",
    "target's probability": "{behaviour:.3f}",
    "one dictionary: stay": "{one:.0%}",
    "FVU": "{one_fvu:.2f}",
    "rules met": "{one_met:.2f}",
    "separate: stay": "{apart:.0%}",
    "FVU, separate": "{apart_fvu:.2f}",
    "rules met, separate": "{apart_met:.2f}",
}


def picture(path: Path, records: list[Record]) -> None:
    steps = list(range(len(records)))
    lines: dict[str, Any] = {
        "stay, one dictionary": (steps, [r["one"] for r in records]),
        "stay, separate": (steps, [r["apart"] for r in records]),
        "rules met, one dictionary": (steps, [r["one_met"] for r in records]),
        "rules met, separate": (steps, [r["apart_met"] for r in records]),
        "target's probability": (steps, [r["behaviour"] for r in records]),
    }
    draw(path, lines, x="checkpoint: " + ", ".join(r["step"] for r in records), y="share")


if __name__ == "__main__":
    main("checkpoints", __doc__, measure, COLUMNS, picture)
