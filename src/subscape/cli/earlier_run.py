"""Begin a run anew in its folder: what was there stays aside until the new run is done."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Generator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from subscape._io import contents, writable
from subscape.cli import toml
from subscape.cli.run_folder import CONFIG
from subscape.subnetworks.saving import is_decomposition
from subscape.training.checkpoint import NAME as CHECKPOINT
from subscape.training.checkpoint import is_checkpoint
from subscape.training.run import METRICS

OWN = (CHECKPOINT, METRICS, CONFIG, "final")
"""What a run writes. The checkpoint is first to go aside: one that is there is then the new run's."""


def is_run(folder: Path) -> bool:
    """Whether a run wrote what `decompose` would write into a folder; other things may be beside it."""
    final = folder / "final"
    if final.exists() and not is_decomposition(final):
        return False
    try:
        settings = toml.read(folder / CONFIG).keys()
    except (OSError, ValueError):
        settings = set()
    aside = any(is_run(path) for path in folder.glob("replaced-*"))  # all of it, and then killed
    return aside or settings >= {"model", "data", "training"} or is_checkpoint(folder / CHECKPOINT)


@contextmanager
def replaced(out: Path, overwrite: bool) -> Generator[bool]:
    """Make a run, in place of the one there if it is to be overwritten.

    If nothing comes of it the earlier run is put back. If it stops after its first checkpoint both are kept,
    and the earlier one goes once the new one, resumed, is done.

    Yields:
        Whether it begins anew, rather than going on.
    """
    aside = next(path for n in count(1) if not (path := out / f"replaced-{n}").exists())
    there = [name for name in OWN if (out / name).exists()]
    # A run without a checkpoint has nothing to go on from.
    fresh = overwrite or not {CHECKPOINT, "final"} & set(there)
    try:
        with writable(aside):
            for name in there if fresh else ():
                aside.mkdir(exist_ok=True)
                (out / name).rename(aside / name)
        yield fresh
    except BaseException:
        if fresh and (out / CHECKPOINT).exists():
            if aside.exists():
                kept = f"the earlier run is kept in {aside} until this one is done"
                print(f"subscape: {kept}, which resumes without --overwrite", file=sys.stderr)
        elif fresh:
            _put_back(out, aside)
        raise
    for path in out.glob("replaced-*"):
        # Of a run that was killed while it stepped aside there may be only the end.
        mine = is_run(path) or is_decomposition(path / "final")
        if mine and {each.name for each in contents(path)} <= set(OWN):
            shutil.rmtree(path)


def _put_back(out: Path, aside: Path) -> None:
    for name in (METRICS, CONFIG):
        (out / name).unlink(missing_ok=True)
    if aside.exists():
        for path in list(aside.iterdir()):
            path.rename(out / path.name)
        aside.rmdir()
