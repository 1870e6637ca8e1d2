"""Learn how far to move along each subnetwork: W0 + Σ δ_k d_k of least loss.

(arXiv 2504.00194 proposes it in sec. 4.2.) Only the δ_k are learned. Of all states looked at on held-out samples
the best one is kept, the original model among them.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from subscape._checks import with_settings
from subscape._io import check_free
from subscape._lock import locked
from subscape._progress import bar
from subscape.divergences import DIVERGENCES, MSE
from subscape.finetuning.adam import at_rest
from subscape.finetuning.config import FinetuneConfig
from subscape.finetuning.examples import Examples, as_examples, set_aside
from subscape.finetuning.finetuned import Finetuned, is_finetuned, out_of_range
from subscape.finetuning.losses import Loss, as_loss, is_language_model, name_of
from subscape.finetuning.state import CHECKPOINT, State, is_checkpoint, load, save
from subscape.finetuning.steered import SteeredModel
from subscape.finetuning.task import Samples, Task
from subscape.measures.kept import check_vocabulary
from subscape.measures.record import Measures, identity_of
from subscape.subnetworks.decomposition import Decomposition
from subscape.targets import Outputs, Target


def finetune(
    found: Decomposition,
    model: nn.Module | Target,
    data: Any,
    loss: str | Loss | None = None,
    *,
    subnetworks: Sequence[int] | None = None,
    heldout: Any = None,
    others: Any = None,
    outputs: Outputs | None = None,
    measures: Measures | None = None,
    config: FinetuneConfig | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
    **settings: Any,
) -> Finetuned:
    """Learn how far to move a model along its subnetworks.

    Example::

        tuned = subscape.finetune(found, model, texts, others=other_texts, keep=1.0)
        with found.edit(model, tuned.deltas):
            model(inputs)

    Args:
        found: the decomposition.
        model: the model it was made for, or its `Target`; left as it is.
        data: inputs, or `(inputs, labels)`, a mapping with `labels`, a data set or a loader.
        loss: `next-token`, `cross-entropy` or `mse` (to the labels), or a function `(outputs, batch) -> scalar`,
            where a batch has the form of the data: `(inputs, labels)` with labels, inputs without. By default
            the next token's for causal language models.
        subnetworks: those that may move; by default all.
        heldout: samples not learned from, in the form of the data; by default a tenth of the data.
        others: inputs whose outputs are to stay as they are; see `keep`.
        outputs: as for `Target`.
        measures: of this decomposition, to warn of δ that leave the range where gradients predict.
        config: settings.
        out: folder for checkpoints and `final/`; the same call goes on from there, with the same result.
        overwrite: start over in `out`.
        progress: show a bar.
        **settings: single settings, on top of `config`: see `FinetuneConfig`.

    Raises:
        ValueError: if the model is another one, or the loss is not finite.
        IndexError: if there is no such subnetwork.
    """
    config = with_settings(config or FinetuneConfig(), settings)
    if measures is not None:
        measures.verify(found)
    steered = SteeredModel(found, model, subnetworks, outputs=outputs)
    learned, held = _split(data, heldout, config.seed)
    rest, held_rest = (None, None) if others is None else _split(others, None, config.seed)
    for given in filter(None, (learned, held, rest)):
        check_vocabulary(steered.target, given.inputs)
    first = learned.take(torch.arange(1)).to(steered.coefficients.device)
    with torch.no_grad():
        language = is_language_model(steered.outputs(first.inputs), first.inputs)
    task = Task(
        steered,
        as_loss(loss, language=language),
        DIVERGENCES.get(str(found.settings.get("divergence")), MSE).of_changes,
        config,
    )
    n = config.n_heldout
    samples = Samples(
        learned, held.first(n), rest, None if held_rest is None else held_rest.first(n)
    )
    where = None if out is None else Path(out)
    with locked(where):
        if where is not None:
            _check_folder(where, overwrite)
        state = _learned(task, samples, where, identity_of(found), progress)
        before, after = (
            task.figures(values, samples, whole=True)
            for values in (torch.zeros_like(state.best), state.best)
        )
        coefficients = torch.zeros(len(found), dtype=state.best.dtype)
        coefficients[steered.subnetworks] = state.best.cpu()
        tuned = Finetuned(
            coefficients=coefficients,
            decomposition=identity_of(found),
            loss=name_of(task.loss),
            loss_before=before.loss,
            loss_after=after.loss,
            moved=after.moved,
            moved_others=after.moved_others,
            unit=task.divergence.unit,
            steps=state.best_step,
            settings=asdict(config),
        )
        if where is not None:
            tuned.save_pretrained(where / "final")
    warning = None if measures is None else out_of_range(tuned, measures)
    if warning:
        warnings.warn(warning, stacklevel=2)
    return tuned


def _learned(
    task: Task, samples: Samples, folder: Path | None, decomposition: str, progress: bool
) -> State:
    """The state at the end: after all steps, or when looks have brought nothing new for long."""
    config = task.config
    identity = json.dumps(_identity(task, samples, decomposition))
    state = None if folder is None else load(folder, identity, task.steered.coefficients.device)
    if state is None:
        zeros = torch.zeros_like(task.steered.coefficients.detach())
        state = State(at_rest(zeros), zeros, task.objective(zeros, samples))
    with bar("fine-tune", total=config.steps, initial=state.adam.step, progress=progress) as shown:
        while state.adam.step < config.steps and state.stale < config.patience:
            step = state.adam.step
            rate = config.learning_rate * (1 - step / config.steps)
            gradient = task.gradient(state.adam.values, samples, step)
            state = replace(state, adam=state.adam.after(gradient, rate, config.l1))
            shown.update()
            if (step + 1) % config.evaluate_every == 0 or step + 1 == config.steps:
                state = state.looked(task.objective(state.adam.values, samples))
                shown.set_postfix_str(f"held-out {state.best_objective:.4g}")
                if folder is not None:
                    save(folder, state, identity)
    return state


def _identity(task: Task, samples: Samples, decomposition: str) -> dict[str, Any]:
    """Everything that the course of a run depends on."""
    return {
        **asdict(task.config),
        "loss": name_of(task.loss),
        "outputs": task.steered.target.outputs_name,
        "subnetworks": task.steered.subnetworks,
        "decomposition": decomposition,
        **{name: None if e is None else e.digest() for name, e in samples._asdict().items()},
    }


def _split(data: Any, heldout: Any, seed: int) -> tuple[Examples, Examples]:
    examples = as_examples(data)
    return set_aside(examples, seed) if heldout is None else (examples, as_examples(heldout))


def _check_folder(folder: Path, overwrite: bool) -> None:
    path = folder / CHECKPOINT
    ours = is_checkpoint(path)
    check_free(path, overwrite=True, owned=lambda _: ours, name="out")
    check_free(
        folder / "final",
        overwrite=ours,
        owned=is_finetuned,
        folder=True,
        name="out",
        expected=f"a new folder, or that of a run to resume, with its {CHECKPOINT}",
    )
    if overwrite and ours:
        path.unlink()
