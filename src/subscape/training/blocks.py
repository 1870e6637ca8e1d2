"""Many blocks of a model decomposed in one pass over the data, each with subnetworks of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from subscape._checks import require
from subscape._io import write_json
from subscape._lock import locked
from subscape.divergences import Divergence, Values
from subscape.gradients import GradientSource
from subscape.gradients.blocks import BlockSource, block_sources, modules_matched
from subscape.gradients.geometry import RowWeight
from subscape.gradients.source import Engine, MetricName
from subscape.references import Reference
from subscape.rows import RowKind
from subscape.subnetworks.decomposition import Decomposition
from subscape.targets import Outputs, Target
from subscape.training.config import TrainingConfig
from subscape.training.decompose import (
    Prepared,
    check_folder,
    name_of_background,
    ordinary_rows,
    prepare,
)
from subscape.training.estimate import Estimate
from subscape.training.recipes import RecipeName, with_recipe
from subscape.training.together import estimate_together, train_together

FOLDER = "blocks"
"""Of a run of many blocks, which holds a run for every block."""
OVERVIEW = "blocks.json"


def decompose_blocks(
    model: nn.Module,
    data: Any,
    *,
    blocks: str | Sequence[str],
    out: str | Path | None = None,
    progress: bool = True,
    **options: Any,
) -> dict[str, Decomposition]:
    """Decompose many blocks of a model in one pass over the data.

    Every module that a glob matches is a block, with subnetworks that lie in its parameters only, and with row
    weight, metric and loss of its own: the same as `decompose` of that block alone gives. But one forward and one
    backward pass of the model per batch serve all blocks.

    Example::

        found = decompose_blocks(model, data, blocks="model.layers.*.mlp", rows="token")
        found["model.layers.3.mlp"].metrics["fvu"]

    Args:
        model: the trained model.
        data: inputs; see `subscape.data.as_samples`.
        blocks: globs over the names of modules; `!glob` takes away. Of matched modules inside each other the
            outermost is the block.
        out: run folder; `blocks/NAME` in it is a run folder like that of `decompose`, and `blocks.json` an
            overview. What is found there is resumed.
        progress: show a progress bar.
        **options: as for `decompose`, but for `parameters`.

    Returns:
        The decompositions by the names of the modules, in model order.

    Raises:
        ValueError: if a glob matches nothing, a parameter would be in two blocks, or an argument of `decompose` is
            wrong; says which and how to repair it.
        FileExistsError: if `out` holds something else.
    """
    return prepare_blocks(model, data, blocks=blocks, **options).run(out, progress=progress)


@dataclass(frozen=True)
class PreparedBlocks:
    """A decomposition of many blocks that is ready to run."""

    blocks: Mapping[str, Prepared]
    """What would be run for every block alone, sharing passes of the model."""
    whole: GradientSource
    """Rows over the tensors of all blocks."""
    config: TrainingConfig
    """Settings of the training, of every block."""

    def estimate(self) -> Estimate:
        """The memory that the run will take."""
        return estimate_together(self.sources("source"), self.config)

    def summary(self) -> str:
        """The tensors with their engines, and the memory that the run will take."""
        return f"{self.whole.summary()}\nin {len(self.blocks)} blocks\nmemory: {self.estimate()}"

    def run(
        self, out: str | Path | None = None, *, progress: bool = True
    ) -> dict[str, Decomposition]:
        """Train, or go on with what is found in `out`; see `decompose_blocks`."""
        folder = None if out is None else Path(out)
        folders = None if folder is None else block_folders(folder, list(self.blocks))
        with ExitStack() as locks:
            if folder is not None:
                locks.enter_context(locked(folder))
            for each in (folders or {}).values():
                check_folder(each)
                locks.enter_context(locked(each))
            trained = train_together(
                self.sources("source"),
                self.sources("heldout"),
                self.config,
                folders=folders,
                progress=progress,
            )
            results = {name: self.blocks[name].finished(one) for name, one in trained.items()}
            for name, each in (folders or {}).items():
                results[name].save_pretrained(each / "final", overwrite=True)
            if folder is not None:
                write_json(folder / OVERVIEW, overview(results))
        return results

    def sources(self, which: Literal["source", "heldout"]) -> dict[str, BlockSource]:
        """Rows to train on, or those held out, of every block."""
        return {name: getattr(prepared, which) for name, prepared in self.blocks.items()}


def prepare_blocks(
    model: nn.Module,
    data: Any,
    *,
    blocks: str | Sequence[str],
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
    heldout: Any = None,
    background: Any = None,
    config: TrainingConfig | None = None,
    **settings: Any,
) -> PreparedBlocks:
    """Check everything that `decompose_blocks` takes and choose the engines, without training."""
    names = modules_matched(model, [blocks] if isinstance(blocks, str) else list(blocks))
    targets = {name: Target(model, name, outputs=outputs) for name in names}
    given = {"reference": reference, "row_weight": row_weight, "metric": metric}
    chosen = with_recipe(recipe, rows, given)
    whole = prepare(
        Target(model, names, outputs=outputs),
        data,
        heldout=heldout,
        divergence=divergence,
        rows=rows,
        recipe=recipe,
        reference=chosen["reference"],
        row_weight="norm",
        metric="euclidean",
        engine=engine,
        config=config,
        **settings,
    )
    n_processes = whole.source.ranks.size
    require(n_processes == 1, "blocks", "one process", n_processes, "Start it without torchrun.")
    geometry = {k: chosen[k] for k in ("row_weight", "metric")}
    of_metric = {"metric_power": metric_power, "metric_damping": metric_damping}
    common = {"divergence": divergence, "rows": rows, "engine": engine, "seed": whole.config.seed}
    ordinary = ordinary_rows(whole.source.target, background, chosen["reference"], geometry, common)
    geometries = whole.source.geometries(
        [target.names for target in targets.values()],
        **geometry,
        power=metric_power,
        damping=metric_damping,
        background=ordinary,
    )
    # Outputs are weighed for all blocks at once.
    whole.heldout.geometry = whole.source.geometry
    source, held = (
        block_sources(each, targets, geometries) for each in (whole.source, whole.heldout)
    )
    known = {**whole.names, **geometry, **of_metric, **name_of_background(ordinary)}
    return PreparedBlocks(
        {name: Prepared(source[name], held[name], whole.config, known) for name in names},
        whole.source,
        whole.config,
    )


def block_folders(out: Path, names: Sequence[str]) -> dict[str, Path]:
    """The run folder of every block."""
    for name in names:
        plain = Path(name).name == name and name not in (".", "..")
        require(plain, "blocks", "modules whose names can be those of folders", repr(name))
    return {name: out / FOLDER / name for name in names}


def overview(results: Mapping[str, Decomposition]) -> dict[str, dict[str, Any]]:
    """What was reached in every block."""
    return {
        name: {
            "fvu": one.metrics["fvu"],
            "l0": one.metrics["l0"],
            "dead": one.metrics["dead"],
            "subnetworks": len(one) // one.group_size,
            "parameters": one.layout.n_parameters,
        }
        for name, one in results.items()
    }
