"""`subscape decompose`: a model, data and settings to a run folder with a saved decomposition."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from subscape._checks import problem
from subscape._io import check_free, writable, write_text
from subscape._lock import locked
from subscape.cli import toml
from subscape.cli.earlier_run import is_run, replaced
from subscape.cli.loading import is_code, load_data, load_model, refuse_code
from subscape.cli.run_folder import CONFIG
from subscape.gradients.source import EngineName, MetricName
from subscape.rows import RowKind
from subscape.subnetworks.decomposition import Decomposition
from subscape.targets import Target
from subscape.training import TrainingConfig, prepare

FLAGS = ("json", "overwrite", "trust")
"""What only the command line can say."""
NAMES = ("model", "data", "heldout")


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
    row_weight: Literal["norm", "output", "unit"] | float = "norm"
    """How much a row counts: as its gradient is long (norm, published), by an output gradient of length 1, all
    the same (unit), or by a power of the length between 0 (norm) and 1 (unit)."""
    metric: MetricName = "euclidean"
    """What gradients are measured in: as published, or by their own second moments (kronecker)."""
    metric_power: float = 0.5
    """Of the Kronecker metric; 0.5 makes rows isotropic."""
    metric_damping: float = 0.01
    """Of the Kronecker metric, as a share of the mean eigenvalue."""
    engine: EngineName = "auto"
    """How row gradients are made."""
    out: Path = Path("runs/decomposition")
    """Run folder; a run of the same settings that was interrupted there is resumed."""
    overwrite: bool = False
    """Begin anew in the folder of a run, which is kept until the new one is done."""
    trust: bool = False
    """Call the functions that a --config file names as model and data. They may do anything."""
    json: bool = False
    """Print the result as JSON."""
    training: tyro.conf.OmitArgPrefixes[TrainingConfig] = field(default_factory=TrainingConfig)
    """Settings of the training."""


def without_code(settings: DecomposeRun) -> DecomposeRun:
    """Settings of a file without the functions that it names."""
    named = [name for name in NAMES if is_code(getattr(settings, name))]
    return replace(settings, **{name: getattr(DecomposeRun, name) for name in named})


def with_code(settings: DecomposeRun, of: DecomposeRun, file: Path) -> DecomposeRun:
    """Settings with the functions that a file names, where the command line gives none.

    Args:
        settings: what the command line said, on top of the file without its functions.
        of: what the file said.
        file: the file.

    Returns:
        The settings.

    Raises:
        ValueError: if there are such functions, and no --trust.
    """
    for name in NAMES:
        value = getattr(of, name)
        if not is_code(value) or getattr(settings, name):
            continue
        if not settings.trust:
            give = f"{value} as MODEL" if name == "model" else f"--{name} {value}"
            refuse_code(name, value, file, give)
        settings = replace(settings, **{name: value})
    return settings


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
    _check_out(settings)
    loaded = load_model(settings.model)
    target = Target(loaded.model, settings.parameters, outputs=loaded.outputs)
    data = load_data(settings.data, settings.model, settings.window)
    heldout = None
    if settings.heldout is not None:
        heldout = load_data(settings.heldout, settings.model, settings.window)
    prepared = prepare(
        target,
        data,
        heldout=heldout,
        divergence=settings.divergence,
        reference=settings.reference,
        rows=settings.rows,
        row_weight=settings.row_weight,
        metric=settings.metric,
        metric_power=settings.metric_power,
        metric_damping=settings.metric_damping,
        engine=settings.engine,
        config=settings.training,
    )
    if not settings.json:
        print(prepared.summary())
    with locked(settings.out), replaced(settings.out, settings.overwrite):
        write_text(settings.out / CONFIG, _config(settings))
        result = prepared.run(settings.out, progress=not settings.json)
    _print(result, settings)
    return result


def _config(settings: DecomposeRun) -> str:
    """The replayable configuration."""
    table = {k: v for k, v in asdict(settings).items() if k not in FLAGS}
    return toml.dumps(table)


def _check_out(settings: DecomposeRun) -> None:
    """Refuse a run folder that holds something else."""
    out, written = settings.out, settings.out / CONFIG
    with writable(out):
        same = written.is_file() and written.read_text(encoding="utf-8") == _config(settings)
    if same and not settings.overwrite:
        return
    check_free(
        out,
        overwrite=settings.overwrite,
        owned=is_run,
        folder=True,
        name="out",
        expected="a new folder, or one of a run with the same settings, which is then resumed",
    )


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
    trust = " --trust" if any(is_code(getattr(settings, name)) for name in NAMES) else ""
    print(
        f"\nSaved in {settings.out / 'final'}; replay with "
        f"subscape decompose --config {settings.out / CONFIG}{trust}"
    )
