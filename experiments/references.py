"""References: with which output should a row be compared, so that known circuits are found?

    SUBSCAPE_DATA=… python experiments/references.py --out runs/references --write docs/open-questions.md

Claim: what a row is compared with decides whether circuits are found, and FVU does not tell. Six references ×
TMS 5-2, TMCS 10-5 (8 seeds, one start) and six rules planted in the MLP of layer 3 of stories260k (one seed
unless told), at equal L0, in the Euclidean metric and with rows counting by their norm, so that nothing else
differs. Judged by success and rules found; the truth of a toy is that of its own reference. Control for the
rules: the base model, with the reference `mean`. About 12 minutes on one core. Expected: one gradient for
each row (mean, fixed, uniform) beats a reference drawn anew.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from geometry_measures import Text
from page import Record, draw, kept, main, slug
from planting import Bed
from torch import Tensor
from trained import trained

from subscape import FixedOutput, GradientSource, Target
from subscape.measures.recovery import recovery
from subscape.references import Reference, name_of
from subscape.reproduce.recipes import reproduction
from subscape.rows import Rows, generator_of
from subscape.subnetworks.evaluation import DEAD_RATE
from subscape.toys import TOYS, Toy, true_subnetworks

N_HELDOUT = 2_000
GOLDEN = (5**0.5 - 1) / 2
CERTAIN = 20.0
"""Logit of the sampled token over all others: a probability of 1."""


def sampled_token(outputs: Tensor, rows: Rows) -> Tensor:
    """A token drawn from the row's own prediction, by the row's place: the same one every time."""
    logits = outputs.detach()
    drawn = (rows.index.double() * GOLDEN) % 1  # not random, but uniform, and the row's own
    cumulative = logits.double().softmax(-1).cumsum(-1)
    token = (cumulative < drawn[:, None]).sum(-1).clamp(max=logits.shape[-1] - 1)
    return CERTAIN * torch.nn.functional.one_hot(token, logits.shape[-1]).to(outputs)


def first_output(target: Target, data: Tensor) -> FixedOutput:
    """The output at the first sample's last place, whatever it is."""
    with torch.no_grad():
        output = target.outputs(data[:1])[0]
    return FixedOutput(output if output.dim() == 1 else output[-1])


REFERENCES: dict[str, Callable[[Target, Tensor], str | Reference]] = {
    "another row": lambda *_: "another-row",
    "mean of all": lambda *_: "mean",
    "mean of the batch's group": lambda *_: "batch-mean",
    "uniform (zeros)": lambda *_: "uniform",
    "one fixed output": first_output,
}
SAMPLED = "token sampled from the prediction"


@cache
def toys_of(name: str, seeds: int) -> list[Toy]:
    return TOYS[name](range(seeds))


def of_toys(name: str, reference: str, seeds: int, steps: int) -> list[Record]:
    what = reproduction(name)
    toys = toys_of(what.toy, seeds)
    sources = []
    for toy in toys:
        target, data = Target(toy.model), toy.sample(what.n_samples, generator_of(toy.seed, 7, 0))
        rule = REFERENCES[reference](target, data)
        sources.append(GradientSource(target, data, reference=rule, seed=2 * toy.seed))
    held = [
        source.over(toy.sample(N_HELDOUT, generator_of(toy.seed, 7, 1)), seed=2 * toy.seed + 1)
        for source, toy in zip(sources, toys, strict=True)
    ]
    config = replace(what.training, steps=steps, n_heldout_rows=N_HELDOUT)
    runs = trained(sources, held, config)
    figures = []
    for toy, source, result in zip(toys, sources, runs, strict=True):
        truth = true_subnetworks(toy, reference=fixed(source, toy)).directions
        alive = torch.tensor(result.metrics["active_rate"]) > DEAD_RATE
        compared = recovery(result.decoder.flat(), truth, alive=alive, represented=toy.represented)
        figures.append({
            "success": compared.success,
            "mmcs": compared.mmcs,
            "fvu": result.metrics["fvu"],
        })
    return figures


def fixed(source: GradientSource, toy: Toy) -> FixedOutput | None:
    """The output that all rows are compared with; of groups of a batch, the mean; none for another row."""
    if isinstance(source.reference, FixedOutput):
        return source.reference
    mean_output = toy.model(source.data).mean(0).detach()
    of_rule = {"uniform": torch.zeros_like(mean_output), "batch-mean": mean_output}
    output = of_rule.get(name_of(source.reference))
    return None if output is None else FixedOutput(output)


def of_plants(out: Path, reference: str, seeds: int, steps: int, on: str = "planted") -> list:
    text = Text.load()
    bed = Bed(out.parent / "stories", text)
    model = bed.planted.model if on == "planted" else text.model
    rule: Any = sampled_token
    if reference != SAMPLED:
        rule = REFERENCES[reference](Target(model), bed.trained.ids)
    figures = []
    for seed in range(seeds):
        result = bed.decomposed(
            out / f"plants-{slug(reference)}-{on}-{steps}-{seed}",
            seed,
            model,
            reference=rule,
            row_weight="norm",
            metric="euclidean",
            steps=steps,
        )
        again = None if isinstance(rule, str) else rule
        source = result.source(model, bed.held.ids, reference=again)
        figures.append(bed.judged(result, source))
    return figures


def measure(
    out: Path,
    *,
    seeds: int = 8,
    steps: int = 1_500,
    plant_seeds: int = 1,
    plant_steps: int = 150,
    references: tuple[str, ...] = (*REFERENCES, SAMPLED),
) -> list[Record]:
    records = []
    for name in references if plant_seeds else [r for r in references if r != SAMPLED]:
        record: Record = {"reference": name, "seeds": seeds, "rules": 6 * plant_seeds}
        for toy in ("tms", "tmcs") if name != SAMPLED else ():
            runs = kept(
                out / f"{toy}-{slug(name)}-{seeds}-{steps}.json",
                lambda toy=toy, name=name: of_toys(toy, name, seeds, steps),
            )
            record[toy] = f"{sum(r['success'] for r in runs)} of {seeds}"
            record[f"{toy}_mmcs"] = f"{mean(r['mmcs'] for r in runs):.3f}"
            record[f"{toy}_fvu"] = f"{mean(r['fvu'] for r in runs):.3f}"
        if plant_seeds:
            record |= planted(out, name, plant_seeds, plant_steps, "planted")
        records.append(record)
    if plant_seeds:
        name = "mean of all"
        record = {"reference": f"{name}, base model without rules", "rules": 6 * plant_seeds}
        records.append(record | planted(out, name, plant_seeds, plant_steps, "base"))
    return [{column: "" for column in KEYS} | record for record in records]


def planted(out: Path, name: str, seeds: int, steps: int, on: str) -> Record:
    runs = kept(
        out / f"plants-{slug(name)}-{on}-{seeds}-{steps}.json",
        lambda: of_plants(out, name, seeds, steps, on),
    )
    return {
        "found": f"{sum(r['found'] for r in runs)} of {6 * seeds}",
        "cosine": f"{mean(mean(r['cosines']) for r in runs):.2f}",
        "auroc": f"{mean(mean(r['aurocs']) for r in runs):.3f}",
        "fvu": f"{mean(r['fvu'] for r in runs):.2f}",
    }


KEYS = (
    *(f"{toy}{key}" for toy in ("tms", "tmcs") for key in ("", "_mmcs", "_fvu")),
    "found",
    "cosine",
    "auroc",
    "fvu",
)
COLUMNS = {
    "reference": "{reference}",
    "TMS": "{tms}",
    "MMCS": "{tms_mmcs}",
    "FVU": "{tms_fvu}",
    "TMCS": "{tmcs}",
    "its MMCS": "{tmcs_mmcs}",
    "its FVU": "{tmcs_fvu}",
    "rules found": "{found}",
    "cosine": "{cosine}",
    "AUROC": "{auroc}",
    "FVU, language model": "{fvu}",
}


def picture(path: Path, records: list[Record]) -> None:
    every = [r for r in records if r["tms"]]
    at = list(range(len(every)))
    lines = {key: (at, [float(r[f"{key}_mmcs"]) for r in every]) for key in ("tms", "tmcs")}
    draw(path, lines, x="line of the table", y="MMCS", joined=False)


if __name__ == "__main__":
    main("references", __doc__, measure, COLUMNS, picture)
