"""`subscape decompose`: a model, data and settings to a run folder with a saved decomposition."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from torch import nn

from subscape._checks import problem, require
from subscape._io import check_free, writable, write_text
from subscape._lock import locked
from subscape._ranks import launched
from subscape.cli import block_runs, toml
from subscape.cli.earlier_run import is_run, replaced
from subscape.cli.flags import parsed as parsed_flags
from subscape.cli.loading import (
    device_of,
    is_code,
    load_data,
    load_model,
    load_pairs,
    refuse_code,
)
from subscape.cli.models import Pooling, is_image_classifier
from subscape.cli.picks import is_classifier, l0_of_classes, middle_mlp, picked
from subscape.cli.run_folder import CONFIG
from subscape.cli.texts import is_pairs
from subscape.data import Samples
from subscape.gradients.blocks import modules_matched
from subscape.gradients.source import EngineName, MetricName
from subscape.measures.kept import check_vocabulary
from subscape.references import Pairs
from subscape.rows import RowKind
from subscape.subnetworks.consolidation import summary
from subscape.subnetworks.decomposition import Decomposition
from subscape.subnetworks.formats import RENAMED, ROWS
from subscape.targets import Target
from subscape.training import TrainingConfig, prepare
from subscape.training.blocks import PreparedBlocks, overview, prepare_blocks
from subscape.training.callbacks import telling
from subscape.training.checkpoint import NAME as CHECKPOINT
from subscape.training.checkpoint import is_checkpoint
from subscape.training.contrastive import paired
from subscape.training.decompose import Prepared
from subscape.training.loggers import logger_of
from subscape.training.recipes import RecipeName, recipe_of, with_start

LEAVE = ("overwrite", "trust")
"""What only the command line can say."""
OF_THE_CALL = (*LEAVE, "json", "device", "out", "log")
"""What run.toml does not keep: the settings of a run hold wherever it is moved to."""
NAMES = ("model", "data", "heldout", "contrast", "background")


@dataclass(frozen=True, kw_only=True)
class DecomposeRun:
    """Decompose a model into sparsely active, low-rank directions in parameter space.

    Example: subscape decompose MODEL --data train.txt --heldout heldout.txt --out runs/attention

    With --config FILE the flags' defaults come from a TOML file, such as the run.toml of an earlier run.
    An interrupted run resumes from its last checkpoint when the same command is given again.

    A rank is a number (2), a share of each dimension (0.1), a number per mode (4 8), or any of these by
    tensor: --rank '*.q_proj.*=8' '*=0.1'
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A Hugging Face folder or hub id (also transformers:NAME), timm:NAME, torchvision:NAME, or
    package.module:function."""
    data: str
    """Texts (.txt, a .jsonl or .parquet with a field `text`, hf:org/set:split[:1000]), arrays (.npy, .npz,
    .safetensors), or package.module:function; or pairs of texts that are compared with each other, a .jsonl file
    of lines {"a": text, "b": text}, of which the last tokens are taken."""
    outputs: Pooling | None = None
    """For a model that gives a hidden state per token, such as an encoder: take the mean over tokens."""
    contrast: str | None = None
    """Data of the same form, a partner for every sample of --data: then each is compared with its partner's
    output, instead of with a --reference."""
    heldout: str | None = None
    """Held-out data to report FVU on; without it a tenth of the data is set aside."""
    background: str | None = None
    """Ordinary data of the same form that the metric is estimated from, where --data are chosen samples, such as
    pairs: a metric of their own would divide out what they have in common."""
    parameters: tuple[str, ...] = ()
    """Globs over parameter or module names; '!glob' excludes. By default all; of a causal language
    model the MLP of the middle block."""
    blocks: tuple[str, ...] = ()
    """Instead of parameters: globs over module names, such as 'model.layers.*.mlp'; '!glob' excludes.
    Each module is decomposed separately, all in one pass over the data, with a run folder
    OUT/blocks/NAME each."""
    window: int = 16
    """Tokens in a window of text."""
    rows: RowKind | None = None
    """What one divergence is computed for: a sample, every token of a sequence, or one drawn each time. By
    default token for a causal language model, otherwise sample."""
    divergence: Literal["mse", "half-reference-mse", "kl"] | None = None
    """Between a row's output and its reference; kl takes logits. By default kl for a causal language model
    and where the data hold classes as `labels`, otherwise mse."""
    recipe: RecipeName = "whitened"
    """Sets the next three where they are not given: whitened (mean, unit, kronecker; where rows are samples
    0.5 for unit) or published (another-row, norm, euclidean)."""
    reference: Literal["another-row", "mean", "batch-mean", "uniform"] | None = None
    """Which output a row is compared with."""
    row_weight: Literal["norm", "output", "unit"] | float | None = None
    """How much a row counts: in proportion to the length of its gradient (norm), as if its output
    gradient had length 1 (output), as much as any other (unit), or by a power between 0 (norm) and 1
    (unit)."""
    metric: MetricName | None = None
    """Metric of gradients: as they are (euclidean), or whitened by their own second moments (kronecker)."""
    metric_power: float = 0.5
    """Power of the Kronecker metric; 0.5 makes rows isotropic."""
    metric_damping: float = 0.01
    """Damping of the Kronecker metric, as a share of the mean eigenvalue."""
    engine: EngineName = "auto"
    """How row gradients are made."""
    device: str = "cpu"
    """Where the model runs: cpu, cuda, cuda:1, mps."""
    log: tuple[str, ...] = ()
    """Also log metrics to tensorboard:FOLDER, wandb:PROJECT, trackio:PROJECT, mlflow:EXPERIMENT."""
    out: Path = Path("runs/decomposition")
    """Run folder; a run of the same settings that was interrupted there is resumed."""
    overwrite: bool = False
    """Start over in the folder of a run; the old run is kept until the new one is done."""
    trust: bool = False
    """Call the functions that a --config file names as model and data. They can run any code."""
    json: bool = False
    """Print the result as JSON."""
    training: tyro.conf.OmitArgPrefixes[TrainingConfig] = field(default_factory=TrainingConfig)
    """Settings of the training."""


def parsed(arguments: Sequence[str]) -> DecomposeRun:
    """The settings of a command line, on top of those of the file that its `--config FILE` names."""
    words = [part for a in arguments for part in _split(a)]
    if "--config" not in words:
        return parsed_flags(DecomposeRun, "decompose", arguments)
    at = words.index("--config")
    if at + 1 == len(words):
        raise ValueError(problem("config", "a TOML file after --config", "nothing"))
    path = Path(words[at + 1])
    of_file = settings_of(path)
    named = {name: getattr(of_file, name) for name in NAMES if is_code(getattr(of_file, name))}
    default = replace(of_file, **{n: "" if n in ("model", "data") else None for n in named})
    for name in ("model", "data"):
        if not getattr(of_file, name):
            default = replace(default, **{name: tyro.MISSING})
    settings = parsed_flags(DecomposeRun, "decompose", words[:at] + words[at + 2 :], default)
    for name, value in named.items():
        if getattr(settings, name):
            continue
        if not settings.trust:
            give = f"{value} as MODEL" if name == "model" else f"--{name} {value}"
            refuse_code(name, value, path, give)
        settings = replace(settings, **{name: value})
    return settings


def _split(argument: str) -> list[str]:
    """`--config=FILE` as two arguments."""
    return argument.split("=", 1) if argument.startswith("--config=") else [argument]


def settings_of(path: Path) -> DecomposeRun:
    """What a configuration file says; the run.toml of a run says it of the folder it lies in."""
    table = in_todays_words(toml.read(path))
    begun = (path.parent / CHECKPOINT).exists() or (path.parent / "final").exists()
    if path.name == CONFIG and (begun or "out" not in table):
        table["out"] = str(path.parent)
    settings = toml.build(DecomposeRun, {"model": "", "data": ""} | table, str(path))
    for key in LEAVE:
        if getattr(settings, key):
            raise ValueError(
                problem(str(path), "settings of a run", key, f"Say --{key} on the command line.")
            )
    return settings


def in_todays_words(table: dict[str, Any]) -> dict[str, Any]:
    """The tables of a run.toml, also of one that was written with the names of format 1."""
    training = table.get("training", {})
    if not isinstance(training, dict):
        return table
    if table.get("rows") != "every-token" and not RENAMED.keys() & training.keys():
        return table
    new = table | {"training": {RENAMED.get(key, key): v for key, v in training.items()}}
    return new | ({"rows": ROWS.get(table["rows"], table["rows"])} if "rows" in table else {})


def run(settings: DecomposeRun) -> Decomposition | dict[str, Decomposition]:
    """Carry out the command; of several processes the first alone writes and says what comes of it."""
    with launched(device_of(settings.device)) as (ranks, device):
        if not ranks.first:
            return _prepared(settings, device)[1].run(progress=False)
        _check_out(settings)
        settings, prepared = _prepared(settings, device)
        if isinstance(prepared, PreparedBlocks):
            return _run_blocks(settings, prepared)
        return _written(settings, prepared)


def _prepared(
    settings: DecomposeRun, device: torch.device
) -> tuple[DecomposeRun, Prepared | PreparedBlocks]:
    """The run, and its settings with what was not said."""
    loaded = load_model(settings.model, device, settings.outputs)
    settings = with_picks(settings, loaded.model)
    parts = modules_matched(loaded.model, settings.blocks) if settings.blocks else None
    target = Target(loaded.model, parts or settings.parameters, outputs=loaded.outputs)
    heldout = settings.heldout and _loaded(settings, settings.heldout)
    data, reference = _rows_of(settings, target)
    background = None if settings.background is None else _loaded(settings, settings.background)
    if background is not None:
        check_vocabulary(target, background)
    options: dict[str, Any] = {
        "heldout": heldout,
        "background": background,
        "divergence": settings.divergence or "mse",
        "rows": settings.rows or "sample",
        "recipe": settings.recipe,
        "reference": reference,
        "row_weight": settings.row_weight,
        "metric": settings.metric,
        "metric_power": settings.metric_power,
        "metric_damping": settings.metric_damping,
        "engine": settings.engine,
        "config": settings.training,
    }
    if parts is not None:
        options |= {"blocks": parts, "outputs": loaded.outputs}
        return settings, prepare_blocks(loaded.model, data, **options)
    return settings, prepare(target, data, **options)


def _written(settings: DecomposeRun, prepared: Prepared) -> Decomposition:
    """Train, with all that is said and kept of it."""
    if not settings.json:
        print(f"{prepared.summary()}\n\n{picked(prepared)}\n")
    written = toml.dumps(settings, leave_out=OF_THE_CALL)
    with locked(settings.out), replaced(settings.out, settings.overwrite) as fresh:
        if fresh:
            write_text(settings.out / CONFIG, written)
        with telling([logger_of(name) for name in settings.log]):
            result = prepared.run(settings.out, progress=not settings.json)
        # Of a resumed run its checkpoint knows whether these are its settings.
        write_text(settings.out / CONFIG, written)
    _print(result, settings)
    return result


def _run_blocks(settings: DecomposeRun, prepared: PreparedBlocks) -> dict[str, Decomposition]:
    """Carry out the command for many blocks."""
    if not settings.json:
        first = next(iter(prepared.blocks.values()))
        print(f"{prepared.summary()}\n\n{picked(first)}\n")
    alone = {
        name: toml.dumps(replace(settings, parameters=(name,), blocks=()), leave_out=OF_THE_CALL)
        for name in prepared.blocks
    }
    written = {settings.out / CONFIG: toml.dumps(settings, leave_out=OF_THE_CALL)}
    how = {"overwrite": settings.overwrite, "progress": not settings.json}
    results = block_runs.carried_out(prepared, settings.out, written, alone, **how)
    if settings.json:
        print(json.dumps({"out": str(settings.out), "blocks": overview(results)}))
    else:
        print(block_runs.shown(results, settings.out, _trust(settings)))
    return results


def is_contrastive(settings: DecomposeRun) -> bool:
    """Whether samples are compared with partners."""
    return settings.contrast is not None or is_pairs(settings.data)


def _rows_of(settings: DecomposeRun, target: Target) -> tuple[Samples, str | Pairs | None]:
    """The samples, and what they are compared with."""
    if not is_contrastive(settings):
        return _loaded(settings, settings.data), settings.reference
    for name in ("reference", "heldout"):
        value = getattr(settings, name)
        expected = "to be left out, as samples are compared with their partners, of which some are held out"
        require(value is None, name, expected, repr(value))
    if settings.contrast is None:
        a, b = load_pairs(Path(settings.data), settings.model, settings.window)
    else:
        a, b = (_loaded(settings, name) for name in (settings.data, settings.contrast))
    for samples in (a, b):
        check_vocabulary(target, samples)
    return paired(target, a, b)


def _loaded(settings: DecomposeRun, name: str) -> Samples:
    return load_data(name, settings.model, settings.window, settings.outputs)


def _check_out(settings: DecomposeRun) -> None:
    """Refuse a folder that holds something else than a run, or one of the other kind: of blocks, or of one."""
    require(
        not (settings.blocks and settings.parameters),
        "blocks",
        "blocks or parameters",
        f"blocks={settings.blocks} and parameters={settings.parameters}",
        "Every parameter of a block belongs to it.",
    )
    require(
        not (settings.blocks and settings.log),
        "log",
        "nothing where --blocks are given, as figures go by block",
        f"{list(settings.log)}",
        "Their figures are in OUT/blocks/NAME/metrics.jsonl.",
    )
    block_runs.check_kind(settings.out, blocks=bool(settings.blocks))
    with writable(settings.out):
        if not settings.overwrite and is_checkpoint(settings.out / CHECKPOINT):
            return
    check_free(
        settings.out,
        overwrite=True,
        owned=is_run,
        folder=True,
        name="out",
        expected="a new folder, or one of a run with the same settings, which is then resumed",
    )


def with_picks(settings: DecomposeRun, model: nn.Module) -> DecomposeRun:
    """What was not said, by the kind of model: run.toml then says it."""
    causal = getattr(model, "can_generate", lambda: False)()
    kl = causal or is_image_classifier(settings.model) or is_classifier(model, settings.data)
    picks: dict[str, Any] = {
        "rows": "token" if causal else "sample",
        "divergence": "kl" if kl else "mse",
        "parameters": (middle_mlp(model) if causal else None) or ("*",),
    }
    picks |= recipe_of(settings.recipe, settings.rows or picks["rows"])
    if is_contrastive(settings):
        del picks["reference"]
    if settings.blocks:
        del picks["parameters"]
    open_ = {k: v for k, v in picks.items() if getattr(settings, k) in (None, ())}
    settings = replace(settings, **open_)
    rows = settings.rows or "sample"
    training = settings.training
    open_ = training.l0 is None and training.active_fraction is None
    of_classes = rows == "sample" and settings.divergence == "kl"
    if open_ and of_classes and settings.recipe == "whitened":
        training = replace(training, l0=l0_of_classes(training.n_subnetworks))
    training = with_start(training.of_rows(rows), settings.recipe, rows)
    return replace(settings, training=training)


def _print(result: Decomposition, settings: DecomposeRun) -> None:
    figures = result.metrics
    if settings.json:
        print(json.dumps({"out": str(settings.out), "metrics": figures}))
        return
    trust = _trust(settings)
    print(f"""
{result}

  FVU on {figures["heldout_rows"]:,} rows of {figures["heldout_samples"]:,} distinct held-out samples  \
{figures["fvu"]:.3f}
  L0 (active subnetworks per row)  {figures["l0"]:.2f}
  row by row with the threshold    FVU {figures["fvu_row_by_row"]:.3f}, L0 {figures["l0_row_by_row"]:.2f}
  dead subnetworks                 {figures["dead"]:.1%}{_consolidated(figures)}

Saved in {settings.out / "final"}; next
  subscape measure {settings.out}{trust}
Replay with
  subscape decompose --config {settings.out / CONFIG}{trust} --out ANOTHER""")


def _trust(settings: DecomposeRun) -> str:
    """The flag that a command needs that takes model and data from run.toml."""
    return " --trust" if any(is_code(getattr(settings, name)) for name in NAMES) else ""


def _consolidated(figures: Mapping[str, Any]) -> str:
    record = figures.get("consolidation")
    return f"\n  consolidated                     {summary(record)}" if record else ""
