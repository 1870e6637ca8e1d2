"""Train the dictionaries of many blocks side by side, on rows that one pass of the model serves them all."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from subscape._checks import require
from subscape._progress import bar
from subscape.gradients.blocks import BlockSource
from subscape.rows import Rows
from subscape.subnetworks.consolidation import summary
from subscape.subnetworks.decomposition import Decomposition
from subscape.subnetworks.dictionary import Reconstruction
from subscape.subnetworks.evaluation import products_together
from subscape.training.config import TrainingConfig
from subscape.training.estimate import Estimate, estimate
from subscape.training.run import best_of_each, record, resumed
from subscape.training.schedule import consolidation_step
from subscape.training.stream import Stream
from subscape.training.trainer import Trainer

Blocks = Mapping[str, BlockSource]
"""Sources by the names of the blocks."""


def train_together(
    blocks: Blocks,
    heldout: Blocks,
    config: TrainingConfig,
    *,
    folders: Mapping[str, Path] | None = None,
    progress: bool = False,
) -> dict[str, Decomposition]:
    """Train a dictionary for every block, each as it would be trained alone, and keep the best of its restarts.

    Blocks that another run has brought further wait for the others.
    """
    trainers = trainers_of(blocks, config)
    for name, folder in (folders or {}).items():
        resumed(folder, trainers[name])
    for trainer in trainers.values():
        trainer.begin()
    started, at = time.perf_counter(), consolidation_step(config)
    first = min(trainer.step_number for trainer in trainers.values())
    shown = {"total": config.steps, "initial": first, "unit": "step", "mininterval": 0.5}
    what = f"decompose {len(blocks)} blocks"
    with bar(what, progress=progress, **shown) as steps:
        for step in range(first, config.steps + 1):
            if step == at:
                trainers = {n: _consolidated(n, t, step, steps) for n, t in trainers.items()}
            if step == config.steps:
                break
            here = {name: t for name, t in trainers.items() if t.step_number == step}
            fvus = []
            for name, batch in step_together(here).items():
                fvus.append(record(trainers[name], batch, folders[name] if folders else None))
            steps.update()
            known = [fvu for fvu in fvus if fvu is not None]
            if known:
                steps.set_postfix(mean_fvu=f"{sum(known) / len(known):.3f}")
    metrics = {"seconds": time.perf_counter() - started, "steps": config.steps}
    found = best_of_each([(t, 0) for t in trainers.values()], list(heldout.values()), metrics)
    return dict(zip(blocks, found, strict=True))


def estimate_together(blocks: Blocks, config: TrainingConfig) -> Estimate:
    """The memory of all blocks together: their rows share the model's graph, and meet one dictionary at a time."""
    every = [estimate(source, config) for source in blocks.values()]
    return Estimate(
        model=every[0].model,
        subnetworks=sum(one.subnetworks for one in every),
        directions=max(one.directions for one in every),
        per_row=max(one.per_row for one in every),
        rows_within=min(one.rows_within for one in every),
        batch_size=config.batch_size,
        kept=every[0].kept,
    )


def rows_at_once(blocks: Blocks, config: TrainingConfig) -> int | None:
    """Rows of a micro-batch; None where they are not cut."""
    cut = all(source.plan is not None for source in blocks.values())
    if config.micro_batch_size is not None or not cut:
        return config.micro_batch_size
    return estimate_together(blocks, config).rows_within


def trainers_of(blocks: Blocks, config: TrainingConfig) -> dict[str, Trainer]:
    """A trainer for every block, which asks for the same rows as those of the others."""
    within = replace(config, micro_batch_size=rows_at_once(blocks, config))
    trainers = {name: Trainer([source], within) for name, source in blocks.items()}
    for name, source in blocks.items():
        _share(trainers[name], source)
    return trainers


def _share(trainer: Trainer, source: BlockSource) -> None:
    """Let a trainer make rows ahead as all blocks together allow it."""
    config, every = trainer.config, source.passes.source.target
    trainer.stream = Stream(
        [source],
        trainer.dictionary.layout,
        config.batch_size,
        config.steps,
        trainer.stream.micro_batch_size,
        n_parameters_ahead=every.n_parameters,
        n_directions=config.n_restarts * config.n_directions,
    )


def _consolidated(name: str, trainer: Trainer, step: int, steps: Any) -> Trainer:
    """What goes on with what stays of a block's subnetworks, if that is its next step."""
    if trainer.step_number != step or trainer.consolidation is not None:
        return trainer
    (source,) = trainer.sources
    one = trainer.consolidated(0)
    assert isinstance(source, BlockSource)
    _share(one, source)
    if not steps.disable:
        steps.write(f"consolidate {name}: {summary(one.consolidation or {})}")
    return one


@torch.enable_grad()
def step_together(trainers: Mapping[str, Trainer]) -> dict[str, Reconstruction]:
    """One step of every trainer, all from the same rows."""
    some = next(iter(trainers.values()))
    rows = some.sources[0].rows(some.step_number, some.config.batch_size)
    parts = rows.micro_batches(some.stream.micro_batch_size)
    in_parts = len(parts) > 1
    batches = {}
    known = _losses(trainers, parts) if in_parts else {}
    for name, trainer in trainers.items():
        if in_parts:
            batch = known[name]
        else:
            gradients = trainer.stream.gradients(trainer.step_number)
            batch = trainer.dictionary(gradients, everything=trainer.everything)
            batch.loss.backward()
        _check_not_zero(name, trainer, batch)
        trainer.update()
        trainer.optimiser.zero_grad()  # to hold one block's gradients at a time
        batches[name] = batch.detached()
    # After all: it asks for other rows.
    for trainer in trainers.values():
        if trainer.resampling_due:
            trainer.resample()
    return batches


def _losses(trainers: Mapping[str, Trainer], parts: Sequence[Rows]) -> dict[str, Reconstruction]:
    """The losses of rows too many to be made at once, and their gradients by two passes over the parts.

    The loss needs inner products alone. Where ∂loss/∂⟨g, v⟩ is known, every part is made once more.
    """
    pairs = [(trainer.sources[0], trainer.dictionary) for trainer in trainers.values()]
    batches, slopes = {}, []
    for (name, trainer), known in zip(
        trainers.items(), products_together(pairs, parts), strict=True
    ):
        leaves = [values.requires_grad_(True) for values in (known.coefficients, known.projected)]
        batch = trainer.dictionary.of_products(known, everything=trainer.everything)
        batch.loss.backward()
        # Rows of no use to the loss, or codes that are all zero, leave no gradient.
        grads = [leaf.grad if leaf.grad is not None else torch.zeros_like(leaf) for leaf in leaves]
        slopes.append(torch.cat(grads, dim=-1).split([len(part) for part in parts], dim=-2))
        batches[name] = batch
    for number, part in enumerate(parts):
        for (source, dictionary), slope in zip(pairs, slopes, strict=True):
            source.gradients(part).inner(dictionary.both).backward(slope[number])
    return batches


def _check_not_zero(name: str, trainer: Trainer, batch: Reconstruction) -> None:
    """Refuse a block that no output depends on, at its first step and not after a whole run on nothing."""
    require(
        trainer.step_number > 0 or bool((batch.total > 0).all()),
        "blocks",
        "modules on which the outputs depend",
        f"{name!r}, whose row gradients are all zero",
        f"Leave it out: '!{name}'.",
    )
