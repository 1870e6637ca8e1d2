"""One call from a model and data to a decomposition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from subscape._checks import problem
from subscape.data import Samples, as_samples, n_samples, take
from subscape.divergences import Divergence
from subscape.gradients import GradientSource, generator_of
from subscape.gradients.source import Engine, Rows
from subscape.references import Reference
from subscape.subnetworks.decomposition import Decomposition
from subscape.targets import Outputs, Target
from subscape.training.config import TrainingConfig
from subscape.training.run import train

HELDOUT_SHARE = 0.1
"""Share of the samples set aside where no held-out data are given."""


def decompose(
    model: nn.Module | Target,
    data: Any,
    *,
    heldout: Any = None,
    parameters: str | Sequence[str] = "*",
    outputs: Outputs | None = None,
    divergence: str | Divergence = "mse",
    reference: str | Reference = "another-row",
    rows: Rows = "sample",
    engine: Engine = "auto",
    config: TrainingConfig | None = None,
    out: str | Path | None = None,
    progress: bool = True,
    **settings: Any,
) -> Decomposition:
    """Find the sparsely active subnetworks of a model: L3D (arXiv 2504.00194).

    Args:
        model: the trained model, or a `Target` (which then already says which parameters).
        data: inputs; see `subscape.data.as_samples`.
        heldout: inputs not trained on, by which the restart is chosen and FVU is reported; by default a
            tenth of `data` is set aside.
        parameters: globs over parameter names; see `Target`.
        outputs: how to get a tensor out of the model; see `Target`.
        divergence: `mse`, `half-reference-mse`, `kl`, or a callable `(outputs, reference) -> [row]`.
        reference: `another-row`, `batch-mean`, `uniform`, or a callable; see `subscape.references`.
        rows: `sample`, or `token` for a row per sampled position of a sequence model.
        engine: how row gradients are made; `auto` chooses.
        config: settings of the training.
        out: run folder for metrics and checkpoints; a run found there is resumed. The result is saved
            in its subfolder `final`.
        progress: show a progress bar.
        **settings: single settings, on top of `config`: see `TrainingConfig`.

    Returns:
        The decomposition with its figures on held-out rows in `.metrics`.
    """
    target = model if isinstance(model, Target) else Target(model, parameters, outputs=outputs)
    config = replace(config or TrainingConfig(), **settings)
    samples, kept = _split(as_samples(data), heldout, config.seed)
    options = {"divergence": divergence, "reference": reference, "rows": rows, "engine": engine}
    source = GradientSource(target, samples, seed=config.seed, **options)
    held = GradientSource(target, kept, seed=config.seed + 1, **options)
    folder = None if out is None else Path(out)
    result = train(source, held, config, folder=folder, progress=progress)
    named = {
        k: v if isinstance(v, str) else getattr(v, "__name__", repr(v)) for k, v in options.items()
    }
    result = replace(result, settings=asdict(config) | named | {"engine": source.engine})
    if folder is not None:
        result.save_pretrained(folder / "final", overwrite=True)
    return result


def _split(samples: Samples, heldout: Any, seed: int) -> tuple[Samples, Samples]:
    if heldout is not None:
        return samples, as_samples(heldout)
    n = n_samples(samples)
    n_held = max(2, round(HELDOUT_SHARE * n))
    if n - n_held < 2:
        raise ValueError(
            problem(
                "data",
                "at least 4 samples, so that some can be held out",
                f"{n}",
                "Give more data, or held-out data of their own by heldout=.",
            )
        )
    order = torch.randperm(n, generator=generator_of(seed, 3))
    return take(samples, order[n_held:]), take(samples, order[:n_held])
