"""One call from a model and data to a decomposition."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from subscape._checks import problem, require, with_settings
from subscape._html import Printed
from subscape._io import check_free
from subscape._lock import locked
from subscape._ranks import current
from subscape._shapes import Int
from subscape.data import Samples, as_samples, hashes, n_samples, take
from subscape.divergences import Divergence, Values
from subscape.gradients import GradientSource
from subscape.gradients.geometry import RowWeight
from subscape.gradients.source import Engine, MetricName
from subscape.references import MEAN, Pairs, Reference, name_of
from subscape.rows import GROUP, RowKind, generator_of
from subscape.subnetworks.decomposition import Decomposition
from subscape.subnetworks.saving import is_decomposition
from subscape.targets import Outputs, Target
from subscape.training.callbacks import Callback, tell_end, telling
from subscape.training.checkpoint import NAME as CHECKPOINT
from subscape.training.config import TrainingConfig
from subscape.training.estimate import GIB, estimate
from subscape.training.recipes import RecipeName, with_recipe, with_start
from subscape.training.run import train

HELDOUT_SHARE = 0.1
"""Share of the distinct samples set aside where no held-out data are given."""
REPEATED_SHARE = 0.1
"""Share of samples that may be copies, or trained on too, before a warning says so."""
REUSED = 2
"""Passes over the data from which the model's activations in front of the chosen parameters are kept."""


def decompose(
    model: nn.Module | Target,
    data: Any,
    *,
    heldout: Any = None,
    background: Any = None,
    parameters: str | Sequence[str] = "*",
    outputs: Outputs | None = None,
    divergence: str | Divergence | Values = "mse",
    rows: RowKind = "sample",
    recipe: RecipeName = "whitened",
    reference: str | Reference | None = None,
    row_weight: RowWeight | None = None,
    metric: MetricName | None = None,
    metric_power: float = 0.5,
    metric_damping: float = 0.01,
    engine: Engine = "auto",
    config: TrainingConfig | None = None,
    out: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    **settings: Any,
) -> Decomposition:
    """Find the sparsely active subnetworks of a model: L3D (arXiv 2504.00194).

    Where `torch.distributed` has a process group, its processes share the rows of every step: all call this with
    the same arguments, and get the same result as one process. The first one writes.

    Args:
        model: the trained model, or a `Target` (which then already says which parameters).
        data: inputs; see `subscape.data.as_samples`.
        heldout: inputs not trained on, by which the restart is chosen and FVU is reported; by default a
            tenth of `data` is set aside.
        background: ordinary inputs that the metric is estimated from, where `data` are chosen ones, such as
            pairs: their own metric divides out what they have in common.
        parameters: globs over parameter names; see `Target`.
        outputs: how to get a tensor out of the model; see `Target`.
        divergence: `mse`, `half-reference-mse`, `kl`, a `Divergence`, or a function
            `(outputs, reference) -> [row]`.
        rows: `sample`; of a sequence model `token` for a row per position, or `sampled-token` for one position
            of every sequence, drawn anew every time.
        recipe: what reference, row weight and metric are where they are not given: `whitened` (mean, unit,
            kronecker; of samples 0.5) or `published` (another-row, norm, euclidean); see `training.recipes`.
        reference: `another-row`, `mean`, `batch-mean`, `uniform`, or a callable; see `subscape.references`.
        row_weight: how much a row counts: `norm`, `output`, `unit`, or a power between 0 and 1.
        metric: `euclidean` or `kronecker`; see `lowrank.metric`.
        metric_power: of the Kronecker metric; ½ whitens fully.
        metric_damping: of the Kronecker metric, as a share of the mean eigenvalue.
        engine: how row gradients are made; `auto` chooses.
        config: settings of the training.
        out: run folder for metrics and checkpoints; a run found there is resumed. The result is saved
            in its subfolder `final`.
        callbacks: told of steps and of the result; see `training.callbacks` and `training.loggers`.
        progress: show a progress bar.
        **settings: single settings, on top of `config`: see `TrainingConfig`.

    Returns:
        The decomposition with its figures on held-out rows in `.metrics`.

    Raises:
        ValueError: if an argument is out of range or does not go with the others; says which and how to
            repair it.
        FileExistsError: if `out` holds a `final` that is no resumable run's.
    """
    prepared = prepare(
        model,
        data,
        heldout=heldout,
        background=background,
        parameters=parameters,
        outputs=outputs,
        divergence=divergence,
        rows=rows,
        recipe=recipe,
        reference=reference,
        row_weight=row_weight,
        metric=metric,
        metric_power=metric_power,
        metric_damping=metric_damping,
        engine=engine,
        config=config,
        **settings,
    )
    with telling(callbacks):
        return prepared.run(out, progress=progress)


@dataclass(frozen=True, repr=False)
class Prepared(Printed):
    """A decomposition that is ready to run: checked, with its engines chosen."""

    source: GradientSource
    """Rows to train on."""
    heldout: GradientSource
    """Rows to choose the restart and to report FVU by."""
    config: TrainingConfig
    """Settings of the training."""
    names: Mapping[str, Any]
    """What else was chosen, by name: outputs function, divergence, reference rule, geometry."""

    def __repr__(self) -> str:
        return f"Prepared({self.config.n_subnetworks} subnetworks, {self.config.steps} steps on {self.source})"

    def __str__(self) -> str:
        return self.summary()

    def summary(self) -> str:
        """The tensors with their engines, and the memory that the run will take."""
        memory = estimate(self.source, self.config)
        return f"{self.source.summary()}\nmemory: {memory}"

    def run(self, out: str | Path | None = None, *, progress: bool = True) -> Decomposition:
        """Train, or go on with the run found in `out`; see `decompose`.

        Args:
            out: run folder; of several processes the first one's alone.
            progress: show a progress bar.

        Returns:
            The decomposition.
        """
        folder = Path(out) if out is not None and self.source.ranks.first else None
        if folder is not None:
            check_folder(folder)
        with locked(folder):
            shown = progress and self.source.ranks.first
            result = train(self.source, self.heldout, self.config, folder=folder, progress=shown)
            result = self.finished(result)
            if folder is not None:
                result.save_pretrained(folder / "final", overwrite=True)
            tell_end(result)
        return result

    def finished(self, trained: Decomposition) -> Decomposition:
        """What training gave, with how it was made."""
        options = {"rows": self.source.kind, "engine": self.source.engine}
        return replace(trained, settings=asdict(self.config) | dict(self.names) | options)


def prepare(
    model: nn.Module | Target,
    data: Any,
    *,
    heldout: Any = None,
    background: Any = None,
    parameters: str | Sequence[str] = "*",
    outputs: Outputs | None = None,
    divergence: str | Divergence | Values = "mse",
    rows: RowKind = "sample",
    recipe: RecipeName = "whitened",
    reference: str | Reference | None = None,
    row_weight: RowWeight | None = None,
    metric: MetricName | None = None,
    metric_power: float = 0.5,
    metric_damping: float = 0.01,
    engine: Engine = "auto",
    config: TrainingConfig | None = None,
    **settings: Any,
) -> Prepared:
    """Check everything that `decompose` takes and choose the engines, without training.

    Args:
        model: as for `decompose`, like all the others.
        data: inputs.
        heldout: inputs not trained on.
        background: ordinary inputs that the metric is estimated from.
        parameters: globs over parameter names.
        outputs: how to get a tensor out of the model.
        divergence: between a row's output and its reference.
        rows: what a row is.
        recipe: what the next three are where they are not given.
        reference: which output a row is compared with.
        row_weight: how much a row counts.
        metric: what gradients are measured in.
        metric_power: of the Kronecker metric.
        metric_damping: of the Kronecker metric.
        engine: how row gradients are made.
        config: settings of the training.
        **settings: single settings, on top of `config`.

    Returns:
        What `decompose` runs; its `summary()` shows tensors, engines and memory.
    """
    if isinstance(model, Target):
        require(
            parameters == "*" and outputs is None,
            "model",
            "parameters and outputs to be given once, by the Target",
            f"a Target and parameters={parameters!r}, outputs={outputs!r}",
            "Leave them out here, or pass the module itself.",
            error=TypeError,
        )
    target = model if isinstance(model, Target) else Target(model, parameters, outputs=outputs)
    config = with_settings(config or TrainingConfig(), settings).of_rows(rows)
    config = with_start(config, recipe, rows)
    given = {"reference": reference, "row_weight": row_weight, "metric": metric}
    geometry = with_recipe(recipe, rows, given)
    rule: str | Reference = geometry.pop("reference")
    (samples, pairs), (kept, kept_pairs) = split(as_samples(data), heldout, rule, config.seed)
    common: dict[str, Any] = {"divergence": divergence, "rows": rows, "engine": engine}
    common |= {"seed": config.seed, "ranks": current()}
    ordinary = ordinary_rows(target, background, rule, geometry, common)
    source = GradientSource(
        target,
        samples,
        reference=pairs,
        metric_power=metric_power,
        metric_damping=metric_damping,
        background=ordinary,
        **geometry,
        **common,
    )
    _check_shares(source, config.batch_size)
    if config.steps * config.batch_size >= REUSED * source.n_rows:
        source.keep_prefix(int(config.memory_gib * GIB / 2))
    held = source.over(kept, seed=config.seed + 1, reference=kept_pairs)
    names = {
        "outputs": target.outputs_name,
        "divergence": source.divergence.name,
        "reference": rule if isinstance(rule, str) else name_of(rule),
        "metric_power": metric_power,
        "metric_damping": metric_damping,
        **geometry,
        **name_of_background(ordinary),
    }
    return Prepared(source, held, config, names)


def ordinary_rows(
    target: Target,
    background: Any,
    reference: str | Reference,
    geometry: Mapping[str, Any],
    common: Mapping[str, Any],
) -> GradientSource | None:
    """Rows of the background, weighed as those of the data and in no metric; it has no pairs, but a mean."""
    if background is None:
        return None
    require(
        geometry["metric"] != "euclidean",
        "background",
        "a metric to estimate from it",
        "the euclidean metric, for which nothing is estimated",
        "Leave it out, or take metric='kronecker'.",
    )
    # A power of the gradients' lengths is taken in the metric, so after it.
    weight = "output" if geometry["row_weight"] == "output" else "norm"
    rule = MEAN if isinstance(reference, Pairs) else reference
    samples = as_samples(background)
    return GradientSource(target, samples, reference=rule, row_weight=weight, **common)


def name_of_background(ordinary: GradientSource | None) -> dict[str, str]:
    """How a decomposition says where its metric is from, if not from its own rows."""
    return {} if ordinary is None else {"background": f"{len(ordinary)} samples"}


def _check_shares(source: GradientSource, batch_size: int) -> None:
    """Say so where processes have nothing to do."""
    n = source.ranks.size
    n_groups = 1 if n == 1 else len(source.rows(0, batch_size).groups)
    if n_groups < n:
        warnings.warn(
            f"batch_size: its {batch_size} rows are {n_groups} groups of {GROUP} samples or more, which are "
            f"never parted, and {n - n_groups} of {n} processes have none.",
            stacklevel=4,
        )


def check_folder(folder: Path) -> None:
    """Refuse a folder whose `final` is no resumable run's."""
    if folder.is_file():
        raise ValueError(
            problem(
                "out", "a folder to make or to resume", f"{folder}, a file", "Give another path."
            )
        )
    # A run writes its checkpoint before `final`: without one it is not this run's.
    check_free(
        folder / "final",
        overwrite=(folder / CHECKPOINT).exists(),
        owned=is_decomposition,
        folder=True,
        name="out",
        expected=f"a new folder, or that of a run to resume, with its {CHECKPOINT}",
    )


Part = tuple[Samples, str | Reference]
"""Samples, and the reference rule that goes with them."""


def split(
    samples: Samples, heldout: Any, reference: str | Reference, seed: int
) -> tuple[Part, Part]:
    """Rows to train on and rows held out, no sample of which is trained on."""
    n = n_samples(samples)
    if isinstance(reference, Pairs):
        require(
            heldout is None and len(reference.outputs) == n,
            "reference",
            f"pairs for the {n} samples of data, and no heldout data, which would have none",
            f"{len(reference.outputs)} pairs" + ("" if heldout is None else " and heldout data"),
            "Give a pair for every sample, and held-out samples as a part of data.",
        )
    if heldout is not None:
        return (samples, reference), (_unseen(as_samples(heldout), samples), reference)
    held, trained = set_aside(samples, seed)
    return _part(samples, reference, trained), _part(samples, reference, held)


def set_aside(samples: Samples, seed: int) -> tuple[Int[Tensor, " held"], Int[Tensor, " trained"]]:
    """Which samples are held out where no others are given, and which are trained on."""
    n = n_samples(samples)
    copies: dict[bytes, list[int]] = {}
    for index, digest in enumerate(hashes(samples)):
        copies.setdefault(digest, []).append(index)
    n_held = max(2, round(HELDOUT_SHARE * len(copies)))
    if len(copies) - n_held < 2:
        raise ValueError(
            problem(
                "data",
                "at least 4 samples, so that some can be held out",
                f"{len(copies)}" + (f" (the others of {n} are copies)" if len(copies) < n else ""),
                "Give more data, or held-out data of their own by heldout=.",
            )
        )
    if n - len(copies) > REPEATED_SHARE * n:
        warnings.warn(
            f"data: {len(copies):,} of {n:,} samples are distinct. Copies of a sample are held out "
            "together, so that none of what is held out is trained on.",
            stacklevel=5,
        )
    order = torch.randperm(len(copies), generator=generator_of(seed, 3)).tolist()
    groups = list(copies.values())
    held, trained = (
        torch.tensor([index for place in places for index in groups[place]])
        for places in (order[:n_held], order[n_held:])
    )
    return held, trained


def _unseen(heldout: Samples, samples: Samples) -> Samples:
    """Held-out samples without those that are trained on."""
    seen, n = set(hashes(samples)), n_samples(heldout)
    unseen = [index for index, digest in enumerate(hashes(heldout)) if digest not in seen]
    if len(unseen) < 2:
        raise ValueError(
            problem(
                "heldout",
                "at least 2 samples that are not in data",
                f"{len(unseen)} of {n}",
                "Give others, or leave heldout out: then a tenth of data is set aside.",
            )
        )
    if n - len(unseen) > REPEATED_SHARE * n:
        warnings.warn(
            f"heldout: {n - len(unseen):,} of {n:,} samples are in data too and are left out.",
            stacklevel=5,
        )
    return take(heldout, torch.tensor(unseen))


def _part(samples: Samples, reference: str | Reference, index: Tensor) -> Part:
    chosen = reference.of_samples(index) if isinstance(reference, Pairs) else reference
    return take(samples, index), chosen
