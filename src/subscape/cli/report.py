"""`subscape report`: a measured run as one self-contained HTML page."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from subscape._io import check_free
from subscape.cli.names import output_namer, token_namer
from subscape.cli.next_step import edit_of, then
from subscape.cli.run_folder import Run, open_run
from subscape.measures import Measures
from subscape.report import write_report
from subscape.report.labels import Labels, read_labels
from subscape.report.page import is_page
from subscape.scorecard import Scorecard
from subscape.scorecard.record import FOLDER, NAME
from subscape.targets import Target


@dataclass(frozen=True)
class ReportRun:
    """Write a measured run as one HTML file that opens in any browser, without a network.

    It shows the run's scorecard too, if there is one (subscape evaluate).

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
    still: bool = False
    """Leave out the sliders, for which the model has to be loaded."""
    model: str | None = None
    """The model, if the run does not name it."""
    device: str = "cpu"
    """Where the model runs: cpu, cuda, cuda:1, mps."""
    trust: bool = False
    """Call the functions that the run names as its model. They can run any code."""
    overwrite: bool = False
    """Replace the file if it is there."""
    json: bool = False
    """Print path and size as JSON."""


def run(settings: ReportRun) -> Path:
    """Carry out the command."""
    opened = open_run(settings.run, settings.model, trust=settings.trust, device=settings.device)
    measures = opened.load_measures(settings.measures)
    check_free(settings.out, overwrite=settings.overwrite, owned=is_page, name="out")
    target = None if settings.still else _target_if_there(opened)
    path = page_of(
        opened,
        measures,
        settings.out,
        title=settings.title,
        target=target,
        overwrite=settings.overwrite,
        progress=not settings.json,
    )
    size = path.stat().st_size
    if settings.json:
        print(json.dumps({"out": str(path), "bytes": size}))
    else:
        print(f"{path}  ({size / 2**20:.1f} MB): open it in a browser")
        print(then(f"top {settings.run}", *edit_of(opened, measures)))
    return path


def page_of(
    opened: Run,
    measures: Measures,
    out: Path,
    *,
    title: str | None = None,
    target: Target | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> Path:
    """Write the report of a run; with sliders where there is a target."""
    scored = opened.folder / FOLDER
    tokens = None if target is None else token_namer(opened.tokenizer())
    return write_report(
        out,
        opened.decomposition,
        measures,
        title=title or title_of(opened.model, opened.decomposition.layout.names),
        scorecard=Scorecard.load(scored) if (scored / NAME).is_file() else None,
        labels=_labels_if_there(opened.folder, measures.decomposition),
        model=target,
        output_names=None if target is None else output_namer(None, target.model, tokens),
        overwrite=overwrite,
        progress=progress,
    )


def _target_if_there(opened: Run) -> Target | None:
    """The model, which a report can do without."""
    try:
        return opened.target()
    except ValueError as error:
        warnings.warn(f"the report's sliders are left out: {error}", stacklevel=2)
        return None


def _labels_if_there(folder: Path, decomposition: str) -> Labels | None:
    """Names and notes; those of an earlier decomposition in this folder are not shown."""
    try:
        return read_labels(folder, decomposition)
    except ValueError as error:
        warnings.warn(f"names and notes are left out: {error}", stacklevel=2)
        return None


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
