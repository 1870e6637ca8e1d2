"""The run folders of the demonstration: an earlier one's is replaced, nobody else's."""

import shutil
from collections.abc import Set as AbstractSet
from pathlib import Path

from subscape._io import check_free

RUN = {"metrics.jsonl", "checkpoint.safetensors", "final", "measures"}
"""What a run and its measures leave."""


def clear(out: Path, known: AbstractSet[str]) -> None:
    """Remove the folder of an earlier demonstration; refused if it holds more than a run and what is `known`."""
    check_free(
        out,
        overwrite=True,
        owned=lambda folder: {path.name for path in folder.iterdir()} <= RUN | known,
        folder=True,
        name="out",
        expected="a new folder, or one of an earlier demo",
    )
    if out.exists():
        shutil.rmtree(out)
