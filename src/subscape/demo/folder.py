"""The run folders of the demonstration: an earlier one's is replaced once the new one is done, nobody else's."""

from functools import partial
from pathlib import Path

from subscape._io import check_free, contents, new_folder
from subscape.subnetworks.saving import is_decomposition

KNOWN = {
    "metrics.jsonl",
    "checkpoint.safetensors",
    "final",
    "measures",
    "demo.json",
    "run.toml",
    "subnetworks.png",
    "report.html",
}
"""What a demonstration leaves."""


def is_demo(folder: Path) -> bool:
    """Whether an earlier demonstration wrote the folder, and nobody put anything else into it."""
    return is_decomposition(folder / "final") and {p.name for p in contents(folder)} <= KNOWN


def check_out(out: Path) -> None:
    """Refuse a folder that holds something else."""
    expected = "a new folder, or one of an earlier demo"
    check_free(out, overwrite=True, owned=is_demo, folder=True, name="out", expected=expected)


demo_folder = partial(new_folder, overwrite=True, owned=is_demo)
"""A folder to make a demonstration in, which takes the place of an earlier one's at the end."""
