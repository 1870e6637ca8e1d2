"""Go on training a decomposition from where it stands, such as after subnetworks were merged or dropped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from glob import escape
from typing import Any

import torch
from torch import nn

from subscape._progress import bar
from subscape.data import as_samples
from subscape.subnetworks.decomposition import Decomposition
from subscape.targets import Target
from subscape.training.config import TrainingConfig
from subscape.training.decompose import split
from subscape.training.run import best_of, run_steps
from subscape.training.trainer import Trainer

REFIT_RATE = 0.35
"""Of the run's own learning rate: where its cosine schedule stands after 60 % of the steps."""


def refit(
    decomposition: Decomposition,
    model: nn.Module | Target,
    data: Any,
    *,
    heldout: Any = None,
    steps: int = 500,
    progress: bool = True,
    **options: Any,
) -> Decomposition:
    """Train all subnetworks of a decomposition further, without warm-up or resampling.

    Args:
        decomposition: where to start; it is not changed.
        model: the model, or the target, that it was made for.
        data: inputs to train on.
        heldout: inputs not trained on, to report FVU by; by default the tenth of `data` set aside before.
        steps: optimiser steps; with 0 the figures alone are new.
        progress: show a progress bar.
        **options: as for `Decomposition.source`.

    Returns:
        The decomposition with figures on held-out rows.
    """
    decomposition, known = decomposition.beside(model), decomposition.settings
    config = _config(decomposition, steps)
    options = {"seed": config.seed, "as_trained": True} | options
    default = decomposition.reference or known.get("reference", "another-row")
    # Split with the samples: pairs are theirs.
    (samples, reference), (kept, kept_reference) = split(
        as_samples(data), heldout, options.pop("reference", None) or default, config.seed
    )
    source = decomposition.source(model, samples, reference=reference, **options)
    trainer = Trainer([source], config)
    state = {
        f"dictionary.{name}": values[None, None]
        for name, values in decomposition.dictionary.state_dict().items()
    }
    trainer.load_state({"step": torch.tensor(0), **state})
    with bar("refit", progress=progress, total=steps, unit="step") as shown:
        run_steps(trainer, steps, None, shown)
    held = source.over(kept, seed=config.seed + 1, reference=kept_reference)
    record = {k: v for k, v in decomposition.metrics.items() if k == "consolidation"}
    result = best_of(trainer, 0, held, {"steps": steps} | record)
    return replace(result, settings=known)


def _config(decomposition: Decomposition, steps: int) -> TrainingConfig:
    """The settings that the decomposition was made with, for training further."""
    known: Mapping[str, Any] = decomposition.settings
    made = {f.name: known[f.name] for f in fields(TrainingConfig) if f.name in known}
    config = TrainingConfig(**made)
    ranks = {escape(t.name): tuple(t.ranks) for t in decomposition.layout.tensors}
    return replace(
        config,
        rank=ranks,
        n_subnetworks=len(decomposition) // decomposition.group_size,
        l0=decomposition.dictionary.selection.l0,
        active_fraction=None,
        learning_rate=REFIT_RATE * config.learning_rate,
        steps=max(1, steps),
        dense_warmup=0.0,
        resample_every=0,
        n_restarts=1,
        consolidate=False,
    )
