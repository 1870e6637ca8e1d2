"""`subscape push`: a run on the Hugging Face Hub."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from subscape.cli.loading import is_code
from subscape.cli.models import split
from subscape.cli.report import page_of
from subscape.cli.run_folder import open_run


@dataclass(frozen=True)
class PushRun:
    """Upload a run's decomposition to the Hugging Face Hub, with a card of its figures and its report.

    A new repository is private unless --public. The report shows excerpts of the data it was measured on; a
    run that was not measured is uploaded without one. Log in first: hf auth login.

    Example: subscape push runs/attention user/repository
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run folder."""
    repository: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="REPOSITORY")]
    """user/repository, created if it does not exist."""
    public: bool = False
    """Make a new repository public."""
    no_report: bool = False
    """Leave the report out."""
    json: bool = False
    """Print the address as JSON."""


def run(settings: PushRun) -> str:
    """Carry out the command."""
    opened = open_run(settings.run)
    with tempfile.TemporaryDirectory() as temporary:
        measures = None if settings.no_report else opened.known_measures()
        page = Path(temporary) / "report.html"
        report = None if measures is None else page_of(opened, measures, page)
        model = opened.model
        address = opened.decomposition.push_to_hub(
            settings.repository,
            base_model=None if model is None or is_code(model) else split(model)[1],
            report=report,
            private=not settings.public,
        )
    if settings.json:
        print(json.dumps({"address": address}))
    else:
        print(
            f"{address}\n\nLoad it with\n\n  subscape.Decomposition.from_pretrained({settings.repository!r})"
        )
    return address
