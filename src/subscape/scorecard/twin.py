"""The same decomposition of the same model with random weights: what is found where there is nothing to find."""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from subscape.data import Samples, take, to_device
from subscape.references import MEAN, REFERENCES
from subscape.rows import generator_of
from subscape.scorecard.agreement import ANY, looked_at, over_all, shares, tops_of
from subscape.scorecard.case import Case, Part
from subscape.scorecard.kinds import Kinds
from subscape.scorecard.reconstruction import of_principal, reached
from subscape.scorecard.record import Column, Line, Section, left_out, line, section
from subscape.subnetworks.decomposition import Decomposition
from subscape.targets import Target
from subscape.training.config import TrainingConfig
from subscape.training.decompose import decompose

LEAST = 50
"""Steps of training that are worth it."""
GEOMETRY = ("row_weight", "metric", "metric_power", "metric_damping")


@dataclass(frozen=True)
class Plan:
    """How the twin is trained."""

    options: dict[str, Any]
    """As `decompose` takes them."""
    steps: int
    """Optimiser steps."""
    steps_of_run: int
    """Those of the run."""


def plan(case: Case, seconds_left: float) -> Plan | str:
    """How the twin is trained in the time that is left; or why not at all."""
    decomposition = case.decomposition
    settings = dict(decomposition.settings)
    names = {f.name for f in fields(TrainingConfig)}
    missing = [n for n in ("n_subnetworks", "steps", "reference", *GEOMETRY) if n not in settings]
    if missing:
        return f"the decomposition does not say how it was made ({', '.join(missing)})"
    if settings["reference"] not in (*REFERENCES, MEAN):
        return f"its reference {settings['reference']!r} is no rule that goes with another model"
    if "background" in settings:
        return f"its metric is of other data ({settings['background']}), which a run does not keep"
    kept = {k: v for k, v in settings.items() if k in names}
    kept["rank"] = _tuples(kept.get("rank", 0.1))
    kept |= {"n_subnetworks": len(decomposition) // decomposition.group_size, "consolidate": False}
    own = int(settings["steps"])
    steps = case.config.twin_steps or own
    taken = decomposition.metrics.get("seconds")
    if isinstance(taken, int | float) and taken > 0:
        steps = min(steps, int(own * seconds_left / taken))
    if steps < min(LEAST, own):
        return "the time was used up"
    options = {k: settings[k] for k in (*GEOMETRY, "reference")} | kept
    often = {"log_every": max(1, steps), "checkpoint_every": max(1, steps // 10)}
    return Plan(options | often | {"steps": steps}, steps, own)


def _tuples(rank: Any) -> Any:
    """A rank per mode as a tuple, which JSON has as a list."""
    if isinstance(rank, dict):
        return {name: _tuples(value) for name, value in rank.items()}
    return tuple(rank) if isinstance(rank, list) else rank


def twin(case: Case, kinds: Kinds, seconds_left: float, folder: Path | None = None) -> Section:
    """FVU and agreement of the twin beside those of the subnetworks; `kinds` are those of `looked_at`.

    With a folder, training that is interrupted goes on from there.
    """
    how = plan(case, seconds_left)
    if isinstance(how, str):
        return left_out("twin", how)
    ours, fit = case.held.source, case.fit.source
    model = randomised(case.target, take(fit.data, case.fit.samples[:256]), case.config.seed)
    target = case.target.of(model)
    found = decompose(
        target,
        fit.data if fit is not ours else take(fit.data, case.fit.samples),
        heldout=take(ours.data, case.held.samples),
        divergence=ours.divergence,
        rows=case.decomposition.settings.get("rows", ours.kind),
        out=None if folder is None else folder.with_name(f"{folder.name}-{how.steps}-steps"),
        progress=False,
        **how.options,
    )
    source = found.source(target, ours.data, divergence=ours.divergence, seed=ours.seed)
    lines = [
        *lines_of("this model", case.decomposition, case.held, case, kinds),
        *lines_of("random weights", found, Part(source, case.held.samples, {}), case, kinds),
    ]
    names = ["any kind"] if kinds else []
    columns = (
        Column("FVU by its encoder", "low"),
        Column("FVU, best codes", "low"),
        Column("explained ÷ principal", "high"),
        *(Column(f"agreement, {n}", "high", True) for n in names),
    )
    short = (
        "" if how.steps == how.steps_of_run else f", instead of the {how.steps_of_run:,} of the run"
    )
    notes = (
        "Every tensor of the model has its own numbers in random order, so that mean and variance stay; the same "
        f"settings, {how.steps:,} training steps{short}.",
        "Two models have two sets of gradients, so compare each with its own principal directions (of the scored "
        "rows themselves, best codes).",
    )
    return section("twin", columns, lines, notes)


def lines_of(name: str, one: Decomposition, part: Part, case: Case, kinds: Kinds) -> list[Line]:
    """Subnetworks and principal directions of one model."""
    ours = reached(part, one)
    rest = of_principal(part, len(one), ours)
    agreed: list[float | None] = []
    if kinds:
        every = over_all(kinds, looked_at(part.source, case.config.n_agree), part.source)
        of_kinds = shares(tops_of(one, part.source, case), every)
        agreed = [of_kinds.get(ANY, max(of_kinds.values()))]
    compared = (1 - ours.best) / (1 - rest) if rest < 1 else None
    mine = line(
        f"subnetworks, {name}",
        ours.by_encoder,
        ours.best,
        compared,
        *agreed,
        ours=name == "this model",
    )
    theirs = line(f"principal directions, {name}", None, rest, None, *([None] * len(agreed)))
    return [mine, theirs]


def randomised(target: Target, samples: Samples, seed: int) -> nn.Module:
    """A copy of the model with the numbers of every parameter in random order."""
    model = copy.deepcopy(target.model)
    generator = generator_of(seed, 49)
    with torch.no_grad():
        for values in model.parameters():  # a tied one once
            order = torch.randperm(values.numel(), generator=generator).to(values.device)
            values.copy_(values.flatten()[order].view_as(values))
    _settle(target.of(model), samples)
    return model


def _settle(target: Target, samples: Samples) -> None:
    """Batch norms take the statistics of the new weights' activations."""
    norms = [m for m in target.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    kept = [(m, m.momentum) for m in norms]
    for module in norms:
        module.reset_running_stats()
        module.momentum = None  # the mean over all batches
        module.train()
    if norms:
        with torch.no_grad():
            target.called(to_device(samples, target.like.device))
    for module, momentum in kept:
        module.momentum = momentum
        module.eval()
