"""A whole training run: steps, metrics, checkpoints, and the choice among restarts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
from torch import Tensor

from subscape._checks import require
from subscape._io import append_jsonl, regular, write_text
from subscape._progress import bar
from subscape.data import hashes
from subscape.gradients import GradientSource
from subscape.references import FixedOutput
from subscape.subnetworks.consolidation import summary
from subscape.subnetworks.decomposition import Decomposition
from subscape.subnetworks.dictionary import Reconstruction
from subscape.subnetworks.evaluation import (
    Evaluation,
    calibrate_together,
    check_not_zero,
    evaluate_together,
)
from subscape.training.callbacks import tell_step
from subscape.training.checkpoint import load_checkpoint, save_checkpoint
from subscape.training.config import TrainingConfig
from subscape.training.schedule import consolidation_step
from subscape.training.trainer import Trainer

METRICS = "metrics.jsonl"


def train(
    source: GradientSource,
    heldout: GradientSource,
    config: TrainingConfig,
    *,
    folder: Path | None = None,
    progress: bool = False,
) -> Decomposition:
    """Train the restarts of one target side by side and keep the best."""
    return train_side_by_side([source], [heldout], config, folder=folder, progress=progress)[0]


def train_side_by_side(
    sources: Sequence[GradientSource],
    heldout: Sequence[GradientSource],
    config: TrainingConfig,
    *,
    folder: Path | None = None,
    progress: bool = False,
) -> list[Decomposition]:
    """Train several targets of one shape in one vectorised run; see `train`.

    Where subnetworks are merged and dropped every target keeps its own number, and from there on trains alone.
    """
    trainer, several = Trainer(sources, config), len(sources) > 1
    assert folder is None or not several
    if folder is not None:
        resumed(folder, trainer)
    trainer.agree()
    trainer.begin()
    if trainer.step_number < config.steps:
        # Found now, not after a whole run on nothing; the trainer keeps these rows for its step.
        check_not_zero(trainer.stream.gradients(trainer.step_number).squared_norm().sum(-1))
    started, first = time.perf_counter(), trainer.step_number
    at = consolidation_step(config)
    shown = {"total": config.steps, "initial": first, "unit": "step", "mininterval": 0.5}
    with bar("decompose", progress=progress, **shown) as steps:
        run_steps(trainer, min(at, config.steps), folder, steps)
        trainers = [trainer]
        if at <= config.steps and trainer.consolidation is None:
            trainers = [trainer.consolidated(index) for index in range(len(sources))]
            for each in trainers if progress else ():
                steps.write(f"consolidate: {summary(each.consolidation or {})}")
        for each in trainers:
            steps.n = each.step_number
            run_steps(each, config.steps, folder, steps)
    seconds = time.perf_counter() - started
    metrics = {"seconds": seconds, "steps": config.steps}
    if trainers[0] is trainer:
        return [best_of(trainer, index, held, metrics) for index, held in enumerate(heldout)]
    return [best_of(each, 0, held, metrics) for each, held in zip(trainers, heldout, strict=True)]


def resumed(folder: Path, trainer: Trainer) -> None:
    """Bring a fresh trainer to where the run in a folder, made if need be, was stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    load_checkpoint(folder, trainer)
    _cut_metrics(folder / METRICS, trainer.step_number)


def run_steps(trainer: Trainer, until: int, folder: Path | None, shown: Any) -> None:
    """Train up to a step, with metrics and checkpoints on the way."""
    while trainer.step_number < until:
        batch = trainer.step()
        shown.update()
        fvu = record(trainer, batch, folder)
        if fvu is not None:
            shown.set_postfix(fvu=f"{fvu:.3f}")


def record(trainer: Trainer, batch: Reconstruction, folder: Path | None) -> float | None:
    """Write metrics and checkpoint of the step just made where these are due; gives the FVU if they are."""
    config, step = trainer.config, trainer.step_number
    log, keep = (
        step % every == 0 or step == config.steps
        for every in (config.log_every, config.checkpoint_every)
    )
    if not (log or keep):
        return None
    fvu = batch.fvu.detach()
    _check_finite(trainer, fvu)
    if log:
        line = asdict(_metrics(step, fvu, batch.codes != 0, config.group_size))
        tell_step(**line)
        if folder is not None:
            append_jsonl(folder / METRICS, line)
    if keep and folder is not None:
        save_checkpoint(folder, trainer)
    return float(fvu.min())


def _check_finite(trainer: Trainer, fvu: Tensor) -> None:
    """Refuse to go on, and to keep a checkpoint, once training has diverged."""
    sides = trainer.dictionary.encoder_weights, trainer.dictionary.decoder_weights
    finite = all(bool(values.isfinite().all()) for values in (*sides, fvu))
    require(
        finite,
        "learning_rate",
        "a step size at which the FVU stays finite, and weights with it",
        f"{trainer.config.learning_rate}, and an FVU of {fvu.flatten().tolist()} before step "
        f"{trainer.step_number}",
        "Lower it.",
    )


@dataclass(frozen=True)
class Line:
    """A line of metrics; lists run over sources, then restarts."""

    step: Annotated[int, msgspec.Meta(ge=1)]
    fvu: list[float]
    l0: list[float]
    silent: list[float]


def _metrics(step: int, fvu: Tensor, active: Tensor, group_size: int) -> Line:
    rate = active.to(fvu.dtype).mean(-2)
    silent = (rate == 0).to(fvu.dtype).mean(-1)
    l0 = rate.sum(-1) / group_size
    return Line(step, *(v.flatten().tolist() for v in (fvu, l0, silent)))


def _cut_metrics(path: Path, step: int) -> None:
    """Drop lines that an interrupted run wrote after its last checkpoint, and those that are damaged."""
    if not path.exists() and not path.is_symlink():
        return
    kept = []
    for line in regular(path).read_bytes().splitlines(keepends=True) if path.exists() else ():
        with suppress(msgspec.DecodeError, UnicodeDecodeError):
            if line.endswith(b"\n") and msgspec.json.decode(line, type=Line).step <= step:
                kept.append(line.decode())
    # Also a link is replaced, and what it points to stays.
    write_text(path, "".join(kept))


def best_of(
    trainer: Trainer, index: int, heldout: GradientSource, metrics: dict[str, Any]
) -> Decomposition:
    """The restart of one source with the lowest FVU on held-out rows, with its figures."""
    return best_of_each([(trainer, index)], [heldout], metrics)[0]


def best_of_each(
    trained: Sequence[tuple[Trainer, int]],
    heldout: Sequence[GradientSource],
    metrics: dict[str, Any],
) -> list[Decomposition]:
    """`best_of` of sources, by trainer and index, that have the same rows and may share passes of the model."""
    stream, config = trained[0][0].stream, trained[0][0].config
    amount: dict[str, Any] = {
        "n_rows": config.n_heldout_rows,
        "batch_size": config.batch_size,
        "micro_batch_size": stream.micro_batch_size,
    }
    restarts = [trainer.dictionary.select(index) for trainer, index in trained]
    results = evaluate_together(list(zip(heldout, restarts, strict=True)), **amount)
    bests = [int(result.fvu.argmin()) for result in results]
    kept = [every.select(best) for every, best in zip(restarts, bests, strict=True)]
    sources = [trainer.sources[index] for trainer, index in trained]
    calibrate_together(list(zip(sources, kept, strict=True)), **amount)
    alone = evaluate_together(list(zip(heldout, kept, strict=True)), alone=True, **amount)
    n_samples = len(set(hashes(heldout[0].data)))
    decompositions = []
    for place, (trainer, _) in enumerate(trained):
        figures = _figures(results[place], alone[place], bests[place])
        merged = trainer.consolidation
        consolidation = {} if merged is None else {"consolidation": merged}
        source = sources[place]
        one = Decomposition(
            dictionary=kept[place],
            target=source.target.fingerprint(),
            metrics=metrics | figures | consolidation | {"heldout_samples": n_samples},
            reference=source.reference if isinstance(source.reference, FixedOutput) else None,
            geometry=source.geometry,
        )
        decompositions.append(one)
    return decompositions


def _figures(result: Evaluation, alone: Evaluation, best: int) -> dict[str, Any]:
    return {
        "fvu": float(result.fvu[best]),
        "fvu_of_batches": float(result.fvu_of_batches[best]),
        "l0": float(result.l0[best]),
        "active_scalars": float(result.active_scalars[best]),
        "dead": float(result.dead[best]),
        "active_rate": result.active_rate[best].tolist(),
        "fvu_row_by_row": float(alone.fvu),
        "l0_row_by_row": float(alone.l0),
        "fvu_of_restarts": result.fvu.tolist(),
        "restart": best,
        "heldout_rows": result.n_rows,
    }
