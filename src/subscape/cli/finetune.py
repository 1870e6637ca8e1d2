"""`subscape finetune`: learn how far to move along each subnetwork, on data and a loss of one's own."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from subscape.cli.loading import imported, is_code, load_labels
from subscape.cli.run_folder import check_index, open_run
from subscape.finetuning import FinetuneConfig, Finetuned
from subscape.finetuning.examples import Examples
from subscape.finetuning.finetune import finetune


@dataclass(frozen=True)
class FinetuneRun:
    """Learn how far to move a model along the subnetworks of a run, W0 + Σ δ_k d_k, for data of your own.

    Only the δ_k are learned. Held-out samples choose the best state and give the figures; with --others and
    --keep, outputs on other data stay where they are. If interrupted, give the same command again to resume.

    Example: subscape finetune runs/attention --data wanted.txt --others text.txt --keep 1
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run folder, or the folder of a saved decomposition."""
    data: str
    """What to learn from: a text, arrays (with `labels`, a class or an output per sample), or
    package.module:function."""
    loss: str | None = None
    """next-token, cross-entropy, mse, or package.module:function of (outputs, batch); of a causal language
    model next-token by default."""
    heldout: str | None = None
    """Data not learned from, in the form of --data; by default a tenth of those."""
    others: str | None = None
    """Data whose outputs should not change; see --keep."""
    subnetworks: tuple[int, ...] = ()
    """Subnetworks that may move; by default all."""
    model: str | None = None
    """The model, if the run does not name it."""
    window: int | None = None
    """Tokens in a window of text; by default those of the run."""
    device: str = "cpu"
    """Where the model runs: cpu, cuda, cuda:1, mps."""
    trust: bool = False
    """Call the functions that the run names as its model. They can run any code."""
    out: Path | None = None
    """Where to; by default the folder 'finetuned' in the run folder."""
    overwrite: bool = False
    """Start over where something else was learned."""
    json: bool = False
    """Print the result as JSON."""
    learning: tyro.conf.OmitArgPrefixes[FinetuneConfig] = field(default_factory=FinetuneConfig)
    """How it is learned."""


def run(settings: FinetuneRun) -> Finetuned:
    """Carry out the command."""
    opened = open_run(settings.run, settings.model, trust=settings.trust, device=settings.device)
    for index in settings.subnetworks:
        check_index(opened, index)
    target = opened.target()

    def load(name: str | None) -> Any:
        if name is None:
            return None
        samples = opened.load(name, settings.window)
        labels = load_labels(name)
        return samples if labels is None else Examples(samples, labels)

    out = settings.out or opened.folder / "finetuned"
    named = settings.loss
    tuned = finetune(
        opened.decomposition,
        target,
        load(settings.data),
        imported(named, "loss") if is_code(named) else named,
        subnetworks=settings.subnetworks or None,
        heldout=load(settings.heldout),
        others=load(settings.others),
        measures=opened.known_measures(),
        config=settings.learning,
        out=out,
        overwrite=settings.overwrite,
        progress=not settings.json,
    )
    if settings.json:
        record = asdict(tuned) | {"coefficients": tuned.coefficients.tolist(), "out": str(out)}
        print(json.dumps(record))
    else:
        print(f"{tuned}\n\nSaved in {out}; use it with\n")
        print(f"  subscape edit {settings.run} --coefficients {out} --prompt TEXT")
        print(f"  subscape edit {settings.run} --coefficients {out} --lora FOLDER")
    return tuned
