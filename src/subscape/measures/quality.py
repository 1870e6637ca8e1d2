"""How well rows are reconstructed, beside principal directions at the same L0."""

from __future__ import annotations

import torch

from subscape.gradients import GradientSource
from subscape.gradients.micro_batches import MicroBatches
from subscape.measures.config import MeasureConfig
from subscape.measures.oracle import pca_fvu_of_grams
from subscape.measures.record import Baseline, Quality, rounded
from subscape.subnetworks.decomposition import Decomposition
from subscape.subnetworks.evaluation import evaluate

N_ROWS = 1024
"""Rows for FVU and its baselines."""


def quality_of(
    decomposition: Decomposition, source: GradientSource, config: MeasureConfig
) -> Quality:
    """FVU and L0 on rows of the data, with baselines of as many active scalars."""
    per_sample = source.draws.per_sample
    n = min(N_ROWS, source.n_rows)
    n = max(n - n % per_sample, per_sample)
    size = max(2, min(config.batch_size, n) // per_sample) * per_sample
    size = min(size, source.n_rows)
    found = evaluate(source, decomposition.dictionary, n_rows=n, batch_size=size)
    scalars = float(found.active_scalars)
    baselines = _baselines(source, -(-n // size), size, len(decomposition), scalars)
    return Quality(rounded(float(found.fvu)), rounded(float(found.l0)), found.n_rows, baselines)


def _baselines(
    source: GradientSource, n_batches: int, size: int, n: int, l0: float
) -> tuple[Baseline, ...]:
    """FVU of principal directions: as many as are active in a row; and as many as subnetworks, best codes."""
    # Whole batches of the same epoch, hence others have other samples.
    n_all = min(2 * n_batches, len(source) * source.draws.per_sample // size)
    batches = [source.rows(i, size) for i in range(max(n_batches, n_all))]
    makers = [lambda rows=rows: source.gradients(rows) for rows in batches]
    with torch.no_grad():
        gram = MicroBatches(makers, [len(rows) for rows in batches]).gram()
    n_rows = sum(len(rows) for rows in batches[:n_batches])
    same, cross, fit = gram[:n_rows, :n_rows], gram[:n_rows, n_rows:], gram[n_rows:, n_rows:]
    few = max(1, round(l0))
    codes = f"{_directions(n)}, best codes"
    found = [
        (_directions(few), float(few), pca_fvu_of_grams(same, few)),
        (codes, l0, pca_fvu_of_grams(same, n, l0)),
    ]
    if len(fit):
        codes = f"{_directions(n)} of {len(fit):,} other rows, best codes"
        found.append((codes, l0, pca_fvu_of_grams(same, n, l0, fit=fit, cross=cross)))
    return tuple(Baseline(name, rounded(at), rounded(fvu)) for name, at, fvu in found)


def _directions(n: int) -> str:
    return f"{n} principal direction{'s' if n > 1 else ''}"
