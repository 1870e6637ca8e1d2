"""Saved decompositions: where one lies, what its `config.json` must hold, and how older ones are read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import msgspec

from subscape._checks import nearest, optional, problem, require
from subscape.lowrank import TensorLayout
from subscape.subnetworks.selection import SELECTIONS

FORMAT_VERSION = "2.0"
FILES = ("config.json", "subnetworks.safetensors")
RENAMED = {
    "warm_start": "dense_warmup",
    "revive_every": "resample_every",
    "revive_until": "resample_until",
}
"""Settings of format 1 by their names now."""
AGAIN = "Give the folder that save_pretrained wrote, as it was written."
ROWS = {"token": "sampled-token", "every-token": "token"}
"""Kinds of rows of format 1 by their names now."""


Count = Annotated[int, msgspec.Meta(ge=1)]


class Parameter(TypedDict):
    """A parameter that was decomposed."""

    name: str
    shape: list[int]
    dtype: str


class Made(TypedDict):
    """What a decomposition belongs to: the fingerprint of a target."""

    model: str
    tensors: list[Parameter]
    sha256: str


@dataclass(frozen=True)
class SavedSelection:
    """Which selection, and what it aims at."""

    kind: str
    l0: Annotated[float, msgspec.Meta(gt=0)]
    group_size: Count = 1


@dataclass(frozen=True)
class SavedConfig:
    """What `config.json` must say."""

    n_subnetworks: Count
    target: Made
    layout: Annotated[tuple[TensorLayout, ...], msgspec.Meta(min_length=1)]
    selection: SavedSelection
    threshold: float | None = None
    """Of format 1."""
    row_weight: Annotated[float, msgspec.Meta(ge=0, le=1)] | Literal["norm", "output", "unit"] = (
        "norm"
    )
    settings: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, bool | float | str | list[float] | dict[str, Any] | None] = field(
        default_factory=dict
    )


def is_hub_name(name: str) -> bool:
    """Whether it is the id of a repository on the Hub, as far as spelling goes."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None


def local_folder(name: str | Path) -> Path:
    """The folder of a saved decomposition by its path, or, where nothing is there, by its id on the Hub."""
    folder, expected = (
        Path(name),
        "the folder that save_pretrained wrote, or user/repository on the Hub",
    )
    if (folder / FILES[0]).is_file():
        return folder
    if folder.exists() or not is_hub_name(str(name)):
        inside = folder / "final"
        repair = f"Load {inside}." if (inside / FILES[0]).is_file() else "Check the path."
        got = f"{folder}, {'without a config.json' if folder.exists() else 'which does not exist'}"
        raise FileNotFoundError(problem("folder", expected, got, repair))
    hub = optional("huggingface_hub", f"for {name} from the Hub", "huggingface_hub")
    try:
        return Path(hub.snapshot_download(str(name), allow_patterns=list(FILES)))
    except (OSError, ValueError) as error:
        got = (
            f"{name}, no folder here, and not to be had from the Hub ({str(error).splitlines()[0]})"
        )
        repair = "Check the spelling, the connection and, of a private one, that you are logged in."
        raise FileNotFoundError(problem("folder", expected, got, repair)) from error


def checked_config(config: Any, folder: Path) -> SavedConfig:
    """The configuration in today's words; refuses what is none, or is newer."""
    if not isinstance(config, dict) or config.get("method") != "l3d":
        raise ValueError(_problem(folder, "something else"))
    version = str(config.get("format_version", ""))
    major = version.split(".")[0]
    if major not in ("1", FORMAT_VERSION.split(".")[0]):
        raise ValueError(
            problem(
                str(folder / "config.json"),
                f"format_version {FORMAT_VERSION} or 1.0",
                repr(config.get("format_version")),
                "Update subscape to read a newer format.",
            )
        )
    try:
        today = msgspec.convert(_from_format_1(config) if major == "1" else config, SavedConfig)
    except msgspec.ValidationError as error:
        raise ValueError(_problem(folder, f"{error}")) from None
    records = [k for k, v in today.metrics.items() if isinstance(v, dict) and k != "consolidation"]
    if records:
        raise ValueError(_problem(folder, f"{records[0]}, which is no figure"))
    file, l0, n = str(folder / "config.json"), today.selection.l0, today.n_subnetworks
    kind, kinds = today.selection.kind, list(SELECTIONS)
    require(kind in kinds, file, f"a selection, one of {kinds}", repr(kind), nearest(kind, kinds))
    require(l0 <= n, file, f"at most {n} subnetworks active", f"l0 = {l0}", AGAIN)
    require(major != "1" or today.threshold is not None, file, "a `threshold`", "none", AGAIN)
    for t in today.layout:
        right = len(t.ranks) == len(t.shape) and min((*t.ranks, *t.shape), default=1) >= 1
        require(right, file, "a rank for every dimension", f"{t}", AGAIN)
    return today


def _from_format_1(config: dict[str, Any]) -> dict[str, Any]:
    config = {"settings": {}, "n_subnetworks": 0} | config
    if not isinstance(config["settings"], dict) or not isinstance(config["n_subnetworks"], int):
        return config
    settings = {RENAMED.get(k, k): v for k, v in config["settings"].items()}
    if "rows" in settings:
        settings["rows"] = ROWS.get(settings["rows"], settings["rows"])
    if settings.get("divergence") == "half_reference_mse":
        settings["divergence"] = "half-reference-mse"
    n = config["n_subnetworks"]
    fraction = settings.get("active_fraction")
    l0 = (fraction if isinstance(fraction, float) else 0.1) * n
    return config | {"settings": settings, "selection": {"kind": "batch-top-k", "l0": l0}}


def _problem(folder: Path, got: str) -> str:
    return problem(
        str(folder / "config.json"),
        "the config of a saved decomposition",
        got,
        AGAIN,
    )
