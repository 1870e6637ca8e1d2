"""`subscape basis`: the Local Interaction Basis of a network, in stages that each go on from the last."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import torch
import tyro

from subscape._checks import problem, require
from subscape._io import check_free, write_text
from subscape.cli import loading, toml
from subscape.cli.next_step import then
from subscape.interaction_basis.build import BasisConfig
from subscape.interaction_basis.figures import report_stage
from subscape.interaction_basis.modules import Library
from subscape.interaction_basis.required import Midpoint
from subscape.interaction_basis.stages import (
    ablate_stage,
    build_stage,
    edges_stage,
    modules_stage,
)
from subscape.interaction_basis.task import Task, decoder_task
from subscape.reproduce.digits import digits_task
from subscape.reproduce.modular_addition import modular_addition_task

Stage = Literal["build", "edges", "ablate", "modules", "report"]
PATHS = ("weights", "text", "scored_text")
LATER = ("out", "tolerance", "midpoint", "curves", "resolution", "library", "last_layer")
"""Fields that bases and edges do not depend on."""


@dataclass(frozen=True)
class BasisFile:
    """What a configuration file says; every run folder keeps a copy as basis.toml."""

    task: str = "digits"
    """modular-addition, digits, decoder, or package.module:function that returns a Task."""
    out: str = ""
    """Run folder; by default runs/ and the name of the file."""
    weights: str = ""
    """modular-addition: a safetensors file; decoder: a Hugging Face folder."""
    text: str = ""
    """decoder: a text file."""
    scored_text: str = ""
    """decoder: another one to score on."""
    length: int = 128
    """decoder: tokens in a window."""
    n_sequences: int = 400
    """decoder: windows for Jacobians and edges, at most."""
    n_scored: int = 32
    """decoder: windows to score."""
    seed: int = 0
    """Of the task's split or choice of data, and of the communities."""
    tolerance: float = 0.001
    """How much worse the score may get."""
    midpoint: Midpoint = "linear"
    """How the bisection halves: linear as published, log for large graphs."""
    curves: bool = True
    """Whether to measure the ablation curves too."""
    resolution: float = 1.0
    """Of the communities; a higher one makes smaller modules."""
    library: Library = "louvain"
    """What finds the communities."""
    last_layer: bool = False
    """Whether the last node layer takes part in modules; logits do not, as published."""
    basis: BasisConfig = field(default_factory=BasisConfig)
    """Settings of the bases, as the table [basis]."""


@dataclass(frozen=True)
class BasisRun:
    """Compute bases, edges, edges required, modules and pictures, a stage at a time.

    An interrupted stage goes on where it was. Every stage wants those before it done.
    """

    stage: Annotated[Stage, tyro.conf.Positional]
    """What to do."""
    config_or_run: Annotated[Path, tyro.conf.Positional]
    """A TOML file (see docs/interaction-basis.md), or a run folder that was made from one."""
    task: str | None = None
    """The task, in place of what the file says."""
    trust: bool = False
    """Call the function that the file names as its task. It may do anything."""
    tolerance: float | None = None
    """ablate: how much worse the score may get, in place of what the file says."""
    resolution: float | None = None
    """modules: a higher one makes smaller modules; in place of what the file says."""
    library: Library | None = None
    """modules: what finds the communities, in place of what the file says."""
    out: Path | None = None
    """Another run folder than the file says."""
    json: bool = False
    """Print the result as JSON, and no progress."""


def run(settings: BasisRun) -> dict[str, Any]:
    """Carry out the command."""
    config, folder = _open(settings)
    torch.set_num_threads(1)  # matrices this small only make threads wait for each other
    progress = not settings.json
    match settings.stage:
        case "build":
            bases = build_stage(load_task(config), config.basis, folder, progress=progress)
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
            graphs = edges_stage(load_task(config), config.basis, folder, progress=progress)
            result = {
                method: [
                    {"from": a, "to": b, "edges": e.numel(), "sum": float(e.sum())}
                    for a, b, e in zip(graph.names, graph.names[1:], graph.edges, strict=False)
                ]
                for method, graph in graphs.items()
            }
        case "ablate":
            result = ablate_stage(
                load_task(config),
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
            )
        case "report":
            result = {"files": [str(path) for path in report_stage(folder)]}
    result = {"run": str(folder), **result}
    _print(settings, result)
    return result


def load_task(config: BasisFile) -> Task:
    """Make the task that a configuration names."""
    match config.task:
        case "digits":
            return digits_task(config.seed)
        case "modular-addition":
            return modular_addition_task(_file(config, "weights"), config.seed)
        case "decoder":
            loading.quiet_transformers()  # silences its notes
            return decoder_task(
                _model_folder(config),
                _file(config, "text"),
                scored_text=_file(config, "scored_text") if config.scored_text else None,
                length=config.length,
                n_sequences=config.n_sequences,
                n_scored=config.n_scored,
                seed=config.seed,
            )
        case name if ":" in name:
            task = loading.called(name, "task")
            got, isa = type(task).__name__, isinstance(task, Task)
            require(isa, "task", f"a Task from {name}", got, "Return one.", error=TypeError)
            return task
        case name:
            expected = "modular-addition, digits, decoder, or package.module:function"
            raise ValueError(problem("task", expected, repr(name)))


def _file(config: BasisFile, name: str) -> Path:
    return _checked(config, name, Path(getattr(config, name)).is_file(), "a file")


def _model_folder(config: BasisFile) -> Path:
    there = bool(config.weights) and (Path(config.weights) / "config.json").is_file()
    return _checked(config, "weights", there, "a Hugging Face folder with its config.json")


def _checked(config: BasisFile, name: str, there: bool, what: str) -> Path:
    require(
        there,
        name,
        f"a path that exists, of {what} for the task {config.task!r}",
        repr(getattr(config, name)),
        "Set it in the configuration file; paths are taken from the file's folder.",
    )
    return Path(getattr(config, name))


def _open(settings: BasisRun) -> tuple[BasisFile, Path]:
    given = settings.config_or_run
    path = given / "basis.toml" if given.is_dir() else given
    require(
        path.is_file(),
        "config_or_run",
        "a TOML file that exists, or a run folder with its basis.toml",
        str(given),
        "A run folder is made by `subscape basis build CONFIG`.",
    )
    config = _read(path)
    needs_task = settings.stage in ("build", "edges", "ablate")
    if needs_task and loading.is_code(config.task) and not (settings.trust or settings.task):
        loading.refuse_code("task", config.task, path, f"--task {config.task}")
    flags = {
        key: value
        for key in ("task", "tolerance", "resolution", "library")
        if (value := getattr(settings, key)) is not None
    }
    config = replace(config, **flags)
    if given.is_dir():
        require(settings.out is None, "out", "no other folder for a run", str(settings.out))
        return config, given
    # Paths in the file are those of its folder; the copy in the run must hold wherever it is read.
    absolute = {
        key: str((path.parent / value).resolve())
        for key in PATHS
        if (value := getattr(config, key))
    }
    config = replace(config, **absolute)
    folder = settings.out or Path(config.out or Path("runs") / path.stem)
    keep_settings(config, folder)
    return config, folder


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
    return {key: value for key, value in table.items() if key != "basis"} | basis


def _read(path: Path) -> BasisFile:
    return toml.build(BasisFile, toml.read(path), str(path))


def _print(settings: BasisRun, result: dict[str, Any]) -> None:
    if settings.json:
        print(json.dumps(result))
        return
    print(f"\n{settings.stage}: {result['run']}")
    match settings.stage:
        case "build":
            for layer in result["layers"]:
                first = ", ".join(f"{value:.4g}" for value in layer["importance"])
                print(
                    f"  {layer['name']:<14} width {layer['width']:>5}  rank {layer['rank']:>5} "
                    f"(PCA {layer['rank_pca']})  importances {first}, …"
                )
        case "edges":
            for method in ("lib", "pca"):
                for section in result[method]:
                    arrow = f"{section['from']} → {section['to']}"
                    print(f"  {method.upper()}  {arrow:<32} sum of edges {section['sum']:.6g}")
        case "ablate":
            print(f"  {result['score']} {result['base']:.5f}, within {result['tolerance']:g}")
            names = result["names"]
            for number, (a, b) in enumerate(zip(names, names[1:], strict=False)):
                lib, pca = (result[m]["sections"][number]["n_edges"] for m in ("lib", "pca"))
                print(f"  {f'{a} → {b}':<32} edges required: LIB {lib:>6}  PCA {pca:>6}")
            total = result["total"]
            print(f"  total LIB {total['lib']}, PCA {total['pca']}, ratio {result['ratio']:.3f}")
        case "modules":
            for method in ("lib", "pca"):
                found = result[method]
                print(f"  {method.upper()}  sizes {found['sizes']}, Q = {found['modularity']:.3f}")
        case "report":
            for path in result["files"]:
                print(f"  {path}")
    stages = get_args(Stage)
    place = stages.index(settings.stage) + 1
    trust = " --trust" if settings.trust else ""
    if place < len(stages):
        print(then(f"basis {stages[place]} {result['run']}{trust}"))
