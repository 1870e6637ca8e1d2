"""Saved decompositions: where one lies, what its `config.json` must hold, and how older ones are read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from subscape._checks import optional, problem

FORMAT_VERSION = "2.0"
FILES = ("config.json", "subnetworks.safetensors")
RENAMED = {
    "warm_start": "dense_warmup",
    "revive_every": "resample_every",
    "revive_until": "resample_until",
}
"""Settings of format 1 by their names now."""
ROWS = {"token": "sampled-token", "every-token": "token"}
"""Kinds of rows of format 1 by their names now."""


def local_folder(name: str | Path) -> Path:
    """The folder of a saved decomposition by its path, or, where nothing is there, by its id on the Hub."""
    folder, expected = (
        Path(name),
        "the folder that save_pretrained wrote, or user/repository on the Hub",
    )
    if (folder / FILES[0]).is_file():
        return folder
    if folder.exists() or not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(name)):
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


def checked_config(config: Any, folder: Path) -> dict[str, Any]:
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
    needed = {"n_subnetworks", "threshold" if major == "1" else "selection", "target", "layout"}
    parts = {"name", "shape", "form", "ranks"}
    missing = needed - config.keys() or set().union(*(parts - t.keys() for t in config["layout"]))
    if missing:
        raise ValueError(_problem(folder, f"one without {sorted(missing)}"))
    return _from_format_1(config) if major == "1" else config


def _from_format_1(config: dict[str, Any]) -> dict[str, Any]:
    settings = {RENAMED.get(k, k): v for k, v in config.get("settings", {}).items()}
    if "rows" in settings:
        settings["rows"] = ROWS.get(settings["rows"], settings["rows"])
    if settings.get("divergence") == "half_reference_mse":
        settings["divergence"] = "half-reference-mse"
    n = config["n_subnetworks"]
    l0 = settings.get("active_fraction", 0.1) * n
    return config | {"settings": settings, "selection": {"kind": "batch-top-k", "l0": l0}}


def _problem(folder: Path, got: str) -> str:
    return problem(
        str(folder / "config.json"),
        "the config of a saved decomposition",
        got,
        "Give the folder that save_pretrained wrote.",
    )
