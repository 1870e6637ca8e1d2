"""The run folders of the demonstration: an earlier one's is replaced, nobody else's."""

import shutil
from collections.abc import Set as AbstractSet
from pathlib import Path

RUN = {"metrics.jsonl", "checkpoint.safetensors", "final", "measures"}
"""What a run and its measures leave."""


def clear(out: Path, known: AbstractSet[str]) -> None:
    """Remove the folder of an earlier demonstration.

    Args:
        out: the folder.
        known: names of what it may hold beside a run.

    Raises:
        FileExistsError: if it holds something else.
    """
    if not out.exists() or not any(out.iterdir()):
        return
    strange = {p.name for p in out.iterdir()} - RUN - known
    if strange:
        raise FileExistsError(
            f"out: expected a new folder or one of an earlier demo; got {out} with {sorted(strange)}. "
            "Choose another --out."
        )
    shutil.rmtree(out)
