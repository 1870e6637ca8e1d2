"""`subscape basis`: the Local Interaction Basis of a network, in stages that each go on from the last."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from subscape._checks import problem, require
from subscape._io import check_free, write_text
from subscape.cli import loading, toml
from subscape.cli.basis_bridge import bridge_stage
from subscape.cli.basis_file import BasisFile, load_task
from subscape.cli.basis_said import print_stage
from subscape.cli.next_step import then
from subscape.cli.run_folder import open_run
from subscape.interaction_basis.build import BasisConfig
from subscape.interaction_basis.cuts import OUTPUT, Layout
from subscape.interaction_basis.figures import report_stage
from subscape.interaction_basis.modules import Library
from subscape.interaction_basis.stages import (
    Shuffled,
    ablate_stage,
    build_stage,
    edges_stage,
    effects_stage,
    modules_stage,
)
from subscape.interaction_basis.task import Task

TOLERANCE, N_SCORED = 0.01, 256
"""Of a model that the command line names."""
N_SHUFFLED = 8
"""Networks with shuffled weights, by default."""
STAGES = ("build", "edges", "ablate", "modules", "effects", "report")
Stage = Literal["build", "edges", "ablate", "modules", "effects", "report", "run", "bridge"]
PATHS = ("weights", "text", "scored_text")
LATER = (
    "out",
    "home",
    "random_rotation",
    "tolerance",
    "midpoint",
    "curves",
    "resolution",
    "library",
    "last_layer",
)
"""Fields that bases and edges do not depend on."""


@dataclass(frozen=True)
class BasisRun:
    """Compute bases, edges, edges required, modules and pictures, one stage at a time or all with `run`.

    An interrupted stage resumes. Each stage needs those before it.
    """

    stage: Annotated[Stage, tyro.conf.Positional]
    """The stage; run does all of them in order, bridge compares subnetworks with modules."""
    config_or_run: Annotated[Path, tyro.conf.Positional]
    """A TOML file (see docs/interaction-basis.md), a run folder that was made from one; or, with --cuts, a
    model: a Hugging Face folder, or package.module:function that returns the module."""
    cuts: tuple[str, ...] = ()
    """Names of modules behind which the model is cut, as model.named_modules() gives them; also input and
    output."""
    data: str | None = None
    """Data of the model: .npy, .npz or .safetensors (`inputs`, `labels`), a text, or package.module:function."""
    layout: Layout | None = None
    """How images lie in a node layer: by channel, or flat."""
    length: int | None = None
    """Tokens in a window of a text."""
    n_samples: int | None = None
    """Samples for Jacobians and edges, at most; all others give covariances."""
    n_scored: int | None = None
    """Samples to score."""
    task: str | None = None
    """The task; overrides the file."""
    trust: bool = False
    """Call the function that the file names as its task. It can run any code."""
    tolerance: float | None = None
    """ablate: how much worse the score may get; overrides the file."""
    resolution: float | None = None
    """modules: a higher resolution makes smaller modules; overrides the file."""
    library: Library | None = None
    """modules: what finds the communities; overrides the file."""
    shuffled: int | None = None
    """modules: how many networks with shuffled weights to compare with; each needs bases and edges of
    its own. By default 8 where swapped edges do not explain the modules, in `run` and wherever --trust
    is not needed."""
    subnetworks: Path | None = None
    """bridge: a run of `subscape decompose` of the same model; which of its subnetworks act through which
    modules."""
    out: Path | None = None
    """Run folder; overrides the file."""
    json: bool = False
    """Print the result as JSON, and no progress."""


def run(settings: BasisRun) -> dict[str, Any]:
    """Carry out the command."""
    config, folder = _open(settings)
    torch.set_num_threads(1)  # matrices this small only make threads wait for each other
    if settings.stage != "run":
        return _stage(settings, config, folder)
    task = functools.cache(lambda: load_task(config))
    result = {}
    for stage in STAGES:
        result[stage] = _stage(replace(settings, stage=stage), config, folder, task, quiet=True)
    result = {"run": str(folder), **result}
    if settings.json:
        print(json.dumps(result))
    return result


def _stage(
    settings: BasisRun,
    config: BasisFile,
    folder: Path,
    task: Callable[[], Task] | None = None,
    *,
    quiet: bool = False,
) -> dict[str, Any]:
    """One stage, and what it prints."""
    task = task or (lambda: load_task(config))
    progress = not settings.json
    match settings.stage:
        case "build":
            bases = build_stage(task(), config.basis, folder, progress=progress)
            result = {
                "layers": [
                    {
                        "name": lib.name,
                        "width": lib.width,
                        "rank": lib.rank,
                        "rank_pca": pca.rank,
                        "importance": lib.importance[:5].tolist(),
                    }
                    for lib, pca in zip(bases.lib, bases.pca, strict=True)
                ]
            }
        case "edges":
            options = {"random_rotation": config.random_rotation, "progress": progress}
            graphs = edges_stage(task(), config.basis, folder, **options)
            result = {
                method: [
                    {"from": a, "to": b, "edges": e.numel(), "sum": float(e.sum())}
                    for a, b, e in zip(graph.names, graph.names[1:], graph.edges, strict=False)
                ]
                for method, graph in graphs.items()
            }
        case "ablate":
            result = ablate_stage(
                task(),
                folder,
                config.tolerance,
                midpoint=config.midpoint,
                curves=config.curves,
                progress=progress,
            )
        case "modules":
            result = modules_stage(
                folder,
                resolution=config.resolution,
                seed=config.seed,
                last_layer=config.last_layer,
                library=config.library,
                shuffled=_shuffled(settings, config, task),
                progress=progress,
            )
        case "effects":
            found = effects_stage(task(), folder)
            result = {key: found[key] for key in ("score", "base", "lib", "pca")}
        case "bridge":
            if settings.subnetworks is None:
                raise ValueError(problem("subnetworks", "a run of `subscape decompose`", "none"))
            model = config.weights if config.task == "decoder" else config.model or None
            decomposed = open_run(settings.subnetworks, model, trust=settings.trust)
            with loading.beside(config.home):
                result = bridge_stage(task(), folder, decomposed, progress=progress)
        case _:
            result = {"files": [str(path) for path in report_stage(folder)]}
    result = {"run": str(folder), **result}
    if not (quiet and settings.json):
        _print(settings, result, last=not quiet)
    return result


def _shuffled(settings: BasisRun, config: BasisFile, task: Callable[[], Task]) -> Shuffled | None:
    """What the modules are compared with beside swapped edges."""
    n = settings.shuffled
    if n is not None:
        return Shuffled(task, config.basis, n) if n else None
    code = any(map(loading.is_code, (config.task, config.model, config.data)))
    trusted = settings.trust or settings.stage == "run" or not code
    return Shuffled(task, config.basis, N_SHUFFLED, if_beyond=True) if trusted else None


def _open(settings: BasisRun) -> tuple[BasisFile, Path]:
    given = settings.config_or_run
    if settings.cuts or settings.data is not None:
        return _of_model(settings)
    path = given / "basis.toml" if given.is_dir() else given
    require(
        path.is_file(),
        "config_or_run",
        "a TOML file that exists, or a run folder with its basis.toml",
        str(given),
        "A run folder is made by `subscape basis build CONFIG`; for a model give --cuts and --data.",
    )
    config = _read(path)
    runs_code = (
        "build",
        "edges",
        "ablate",
        "effects",
        "run",
        "bridge",
        *["modules"] * bool(settings.shuffled),
    )
    if settings.stage in runs_code and not settings.trust:
        for key in ("task", "model", "data"):
            name = getattr(config, key)
            if loading.is_code(name) and not (key == "task" and settings.task):
                loading.refuse_code(key, name, path, f"--{key} {name}")
    flags = {
        key: value
        for key in ("task", "tolerance", "resolution", "library")
        if (value := getattr(settings, key)) is not None
    }
    config = replace(config, **flags)
    if given.is_dir():
        require(settings.out is None, "out", "no other folder for a run", str(settings.out))
        return replace(config, home=str((given / config.home).resolve())), given
    # Paths in the file are those of its folder; the copy in the run must hold wherever it is read.
    absolute = {
        key: str((path.parent / value).resolve())
        for key in PATHS
        if (value := getattr(config, key))
    }
    home = str(path.parent.resolve())
    config = replace(config, **absolute)
    folder = settings.out or Path(config.out or Path("runs") / path.stem)
    keep_settings(replace(config, home=os.path.relpath(home, folder.resolve())), folder)
    return replace(config, home=home), folder


def _of_model(settings: BasisRun) -> tuple[BasisFile, Path]:
    """The settings of a model that the command line names, with bases that cost little."""
    model, data = str(settings.config_or_run), settings.data
    require(len(settings.cuts) >= 2, "cuts", "two names of modules or more", str(settings.cuts))
    if data is None:
        raise ValueError(problem("data", "data of the model", "none", "Give it by --data FILE."))
    # The copy in the run must hold wherever it is read.
    places = [str(Path(name).resolve()) if Path(name).exists() else name for name in (model, data)]
    given = {
        "layout": settings.layout,
        "length": settings.length,
        "n_sequences": settings.n_samples,
        "tolerance": settings.tolerance,
        "resolution": settings.resolution,
        "library": settings.library,
    }
    config = BasisFile(
        task="model",
        model=places[0],
        data=places[1],
        cuts=settings.cuts,
        n_scored=settings.n_scored or N_SCORED,
        tolerance=TOLERANCE,
        midpoint="log",
        random_rotation=True,
        basis=BasisConfig(
            last="raw" if OUTPUT in settings.cuts else "pca",
            sign_positions=1,
            batch_size=64,
            allow_low_rank=True,
        ),
    )
    config = replace(config, **{k: v for k, v in given.items() if v is not None})
    folder = settings.out or Path("runs") / Path(model.rpartition(":")[2] or model).name
    home = str(Path.cwd())
    keep_settings(replace(config, home=os.path.relpath(home, folder.resolve())), folder)
    return replace(config, home=home), folder


def keep_settings(config: BasisFile, folder: Path) -> None:
    """Write basis.toml into a run folder; refuses one that is none, or was begun with other settings."""
    path = folder / "basis.toml"
    expected = "a new folder, or that of a run, with its basis.toml"
    mine = path.is_file()
    check_free(
        folder, overwrite=True, owned=lambda _: mine, folder=True, name="out", expected=expected
    )
    if path.exists() and (folder / "build" / "layers").exists():
        there, here = (_flat(asdict(c)) for c in (_read(path), config))
        other = [key for key in here if here[key] != there[key] and key not in LATER]
        require(
            not other,
            "out",
            "a run folder that was begun with the same settings",
            f"{folder}, which differs in {', '.join(other)}",
            "Choose another folder with --out, or delete this one.",
        )
    write_text(path, toml.dumps(config))


def _flat(table: Mapping[str, Any]) -> dict[str, Any]:
    basis = {f"basis.{key}": value for key, value in table["basis"].items()}
    table = {**table, "cuts": list(table["cuts"])}
    return {key: value for key, value in table.items() if key != "basis"} | basis


def _read(path: Path) -> BasisFile:
    return toml.build(BasisFile, toml.read(path), str(path))


def _print(settings: BasisRun, result: dict[str, Any], *, last: bool = True) -> None:
    if settings.json:
        print(json.dumps(result))
        return
    print(f"\n{settings.stage}: {result['run']}")
    print_stage(settings.stage, result)
    after = dict(zip(STAGES, STAGES[1:], strict=False)) | {"bridge": "report"}
    trust = " --trust" if settings.trust else ""
    if last and settings.stage in after:
        print(then(f"basis {after[settings.stage]} {result['run']}{trust}"))
