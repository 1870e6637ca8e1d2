"""`subscape decompose`: a model, data and settings to a run folder with a saved decomposition."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from subscape._checks import problem
from subscape._io import writable, write_text
from subscape.cli import toml
from subscape.cli.loading import load_data, load_model
from subscape.gradients.source import EngineName
from subscape.rows import RowKind
from subscape.subnetworks.decomposition import Decomposition
from subscape.targets import Target
from subscape.training import TrainingConfig, prepare

CONFIG = "run.toml"


@dataclass(frozen=True)
class DecomposeRun:
    """Decompose a model into sparsely active, low-rank directions in parameter space.

    Example: subscape decompose MODEL --parameters 'model.layers.2.self_attn.*' --data train.txt
    --heldout heldout.txt --rows sampled-token --divergence kl --out runs/attention

    With --config FILE the flags' defaults come from a TOML file, such as the run.toml of an earlier run.
    An interrupted run goes on from its last checkpoint when the same command is given again.
    """

    model: Annotated[str, tyro.conf.Positional] = ""
    """A Hugging Face folder or hub id of a causal language model, or package.module:function."""
    parameters: tuple[str, ...] = ("*",)
    """Globs over parameter names, or module names; '!glob' takes away."""
    data: str = ""
    """A .txt, .npy, .npz or .safetensors file, or package.module:function."""
    heldout: str | None = None
    """Data not trained on, to report FVU by; without it a tenth of the data is set aside."""
    window: int = 16
    """Tokens in a window of text."""
    rows: RowKind = "sample"
    """What one divergence is computed for: a sample, every token of a sequence, or one drawn each time."""
    divergence: Literal["mse", "half-reference-mse", "kl"] = "mse"
    """Between a row's output and its reference; kl takes logits."""
    reference: Literal["another-row", "mean", "batch-mean", "uniform"] = "another-row"
    """Which output a row is compared with."""
    engine: EngineName = "auto"
    """How row gradients are made."""
    out: Path = Path("runs/decomposition")
    """Run folder; a run of the same settings that was interrupted there is resumed."""
    overwrite: bool = False
    """Begin anew in a run folder that exists."""
    json: bool = False
    """Print the result as JSON."""
    training: tyro.conf.OmitArgPrefixes[TrainingConfig] = field(default_factory=TrainingConfig)
    """Settings of the training."""


def run(settings: DecomposeRun) -> Decomposition:
    """Carry out the command.

    Args:
        settings: what the command line said.

    Returns:
        The decomposition, which is also saved in the run folder.

    Raises:
        ValueError: if an argument is wrong.
    """
    for name in ("model", "data"):
        if not getattr(settings, name):
            raise ValueError(problem(name, "a value", "nothing", "See subscape decompose --help."))
    loaded = load_model(settings.model)
    target = Target(loaded.model, settings.parameters, outputs=loaded.outputs)
    data = load_data(settings.data, settings.model, settings.window)
    heldout = None
    if settings.heldout is not None:
        heldout = load_data(settings.heldout, settings.model, settings.window)
    _check_folder(settings)
    prepared = prepare(
        target,
        data,
        heldout=heldout,
        divergence=settings.divergence,
        reference=settings.reference,
        rows=settings.rows,
        engine=settings.engine,
        config=settings.training,
    )
    if not settings.json:
        print(prepared.summary())
    _begin(settings)
    try:
        result = prepared.run(settings.out, progress=not settings.json)
    except ValueError:
        _leave_nothing(settings.out)
        raise
    _print(result, settings)
    return result


def _config(settings: DecomposeRun) -> str:
    """The replayable configuration."""
    table = {k: v for k, v in asdict(settings).items() if k not in ("json", "overwrite")}
    return toml.dumps(table)


def _check_folder(settings: DecomposeRun) -> None:
    """Refuse a run folder that holds something else."""
    out = settings.out
    with writable(out):
        full = out.exists() and any(out.iterdir())
    if not full or settings.overwrite:
        return
    written = out / CONFIG
    if not written.exists() or written.read_text(encoding="utf-8") != _config(settings):
        raise ValueError(
            problem(
                "out",
                "a new folder, or one of a run with the same settings, which is then resumed",
                f"{out}, which holds something else",
                "Choose another --out, or begin anew with --overwrite.",
            )
        )


def _begin(settings: DecomposeRun) -> None:
    """Make the run folder, without what is to be overwritten, and leave the configuration in it."""
    if settings.overwrite:
        for name in ("checkpoint.safetensors", "metrics.jsonl"):
            (settings.out / name).unlink(missing_ok=True)
        shutil.rmtree(settings.out / "final", ignore_errors=True)
    write_text(settings.out / CONFIG, _config(settings))


def _leave_nothing(out: Path) -> None:
    """Take away a run folder of which nothing came but its configuration."""
    if [path.name for path in out.iterdir()] == [CONFIG]:
        (out / CONFIG).unlink()
        out.rmdir()


def _print(result: Decomposition, settings: DecomposeRun) -> None:
    figures = {k: v for k, v in result.metrics.items() if k != "active_rate"}
    if settings.json:
        print(json.dumps({"out": str(settings.out), "metrics": result.metrics}))
        return
    print(f"\n{result}\n")
    print(
        f"  FVU on {figures['heldout_rows']:,} rows of {figures['heldout_samples']:,} "
        f"distinct held-out samples  {figures['fvu']:.3f}"
    )
    print(f"  L0 (active subnetworks per row)  {figures['l0']:.2f}")
    print(
        f"  row by row with the threshold    FVU {figures['fvu_row_by_row']:.3f}, "
        f"L0 {figures['l0_row_by_row']:.2f}"
    )
    print(f"  dead subnetworks                 {figures['dead']:.1%}")
    print(
        f"\nSaved in {settings.out / 'final'}; replay with "
        f"subscape decompose --config {settings.out / CONFIG}"
    )
