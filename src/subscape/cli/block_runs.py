"""A run of many blocks as a folder: OUT/blocks/NAME for each, run.toml and blocks.json for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from subscape._checks import require
from subscape._io import check_free, write_text
from subscape._lock import locked
from subscape.cli.earlier_run import is_run, replaced
from subscape.cli.run_folder import CONFIG
from subscape.subnetworks.decomposition import Decomposition
from subscape.training.blocks import FOLDER, PreparedBlocks, block_folders, overview
from subscape.training.checkpoint import NAME as CHECKPOINT


def check_kind(out: Path, *, blocks: bool) -> None:
    """Refuse to mix a run of blocks with one of a single block."""
    single = (out / CHECKPOINT).exists() or (out / "final").exists()
    other = single if blocks else (out / FOLDER).is_dir()
    kinds = "a run of one block", "a run of many blocks"
    got = f"{out}, which holds {kinds[not blocks]}"
    require(not other, "out", f"a new folder, or that of {kinds[blocks]}", got)


def carried_out(
    prepared: PreparedBlocks,
    out: Path,
    written: Mapping[Path, str],
    alone: Mapping[str, str],
    *,
    overwrite: bool,
    progress: bool,
) -> dict[str, Decomposition]:
    """Train, with the settings `written` for all blocks and with those of each `alone` in its folder."""
    folders = block_folders(out, list(prepared.blocks))
    for folder in folders.values():
        expected = "a new folder, or one of a run with the same settings, which is then resumed"
        check_free(folder, overwrite=True, owned=is_run, folder=True, name="out", expected=expected)
    settings = {**written, **{folders[name] / CONFIG: text for name, text in alone.items()}}
    with ExitStack() as stack:
        stack.enter_context(locked(out))
        for path, text in written.items():
            if not path.exists():
                write_text(path, text)
        for folder in folders.values():
            stack.enter_context(locked(folder))
            if stack.enter_context(replaced(folder, overwrite)):
                write_text(folder / CONFIG, settings[folder / CONFIG])
        results = prepared.run(out, progress=progress)
        # Of resumed runs their checkpoints know whether these are their settings.
        for path, text in settings.items():
            write_text(path, text)
    return results


def shown(results: Mapping[str, Decomposition], out: Path, trust: str) -> str:
    """What was reached, block by block, and what to do next."""
    width = max(map(len, (*results, "block")))
    lines = [f"  {'block':<{width}}  {'FVU':>7}  {'L0':>7}  {'dead':>6}  subnetworks"]
    for name, one in overview(results).items():
        lines.append(
            f"  {name:<{width}}  {one['fvu']:>7.3f}  {one['l0']:>7.2f}  {one['dead']:>6.1%}"
            f"  {one['subnetworks']:>11,}"
        )
    return "\n".join([
        "",
        *lines,
        "",
        f"Every block has a run folder in {out / FOLDER}; next",
        f"  subscape measure {out / FOLDER / next(iter(results))}{trust}",
        "Replay with",
        f"  subscape decompose --config {out / CONFIG}{trust} --out ANOTHER",
    ])
