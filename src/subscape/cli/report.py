"""`subscape report`: a measured run as one self-contained HTML page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from subscape.cli.next_step import edit_of, then
from subscape.cli.run_folder import open_run
from subscape.report import write_report


@dataclass(frozen=True)
class ReportRun:
    """Write a measured run as one HTML file that opens in any browser, without a network.

    Example: subscape report runs/attention -o attention.html
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run folder that was measured; see subscape measure."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("report.html")
    """The file to write."""
    title: str | None = None
    """Headline; by default the model's name and the tensors."""
    measures: Path | None = None
    """Folder of the measures; by default the folder 'measures' in the run folder."""
    overwrite: bool = False
    """Replace the file if it is there."""
    json: bool = False
    """Print path and size as JSON."""


def run(settings: ReportRun) -> Path:
    """Carry out the command."""
    opened = open_run(settings.run)
    measures = opened.load_measures(settings.measures)
    title = settings.title or title_of(opened.model, opened.decomposition.layout.names)
    path = write_report(
        settings.out, opened.decomposition, measures, title=title, overwrite=settings.overwrite
    )
    size = path.stat().st_size
    if settings.json:
        print(json.dumps({"out": str(path), "bytes": size}))
    else:
        print(f"{path}  ({size / 2**20:.1f} MB): open it in a browser")
        print(then(f"top {settings.run}", *edit_of(opened, measures)))
    return path


def title_of(model: str | None, names: Sequence[str]) -> str:
    """Name of the model, and the longest module name that all tensors share."""
    parts = [name.split(".") for name in names]
    shared = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    module = ".".join(shared) or f"{len(names)} tensors"
    return f"{Path(model).name if model else 'decomposition'} · {module}"
