"""`subscape explore`: look at a measured run and push its subnetworks, in a browser on this computer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from subscape.cli.names import output_namer, token_namer
from subscape.cli.report import title_of
from subscape.cli.run_folder import open_run
from subscape.explorer import explore
from subscape.explorer.beside import Beside


@dataclass(frozen=True)
class ExploreRun:
    """Explore a measured run live: push subnetworks, see what that changes, name them, export edits.

    Serves a page on 127.0.0.1 only and prints its address, which holds a token that others do not know.

    Example: subscape explore runs/attention
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run folder that was measured; see subscape measure. Names, notes and exports are kept in it."""
    open: bool = False
    """Open the page in the browser."""
    port: int | None = None
    """Where to listen; by default the first free port from 8123; 0 for any free one."""
    model: str | None = None
    """The model, if the run does not name it."""
    data: str | None = None
    """Data to explore; by default the held-out data."""
    beside: Path | None = None
    """Another measured run of the same parameters, to compare with: which subnetworks are in both."""
    names: Path | None = None
    """Text file with one output name (class) a line."""
    device: str = "cpu"
    """Where the model runs: cpu, cuda, cuda:1, mps."""
    trust: bool = False
    """Call the functions that the run names as its model and data. They can run any code."""


def run(settings: ExploreRun) -> None:
    """Carry out the command, until interrupted."""
    opened = open_run(
        settings.run, settings.model, settings.data, trust=settings.trust, device=settings.device
    )
    measures = opened.load_measures()
    target, tokenizer = opened.target(), opened.tokenizer()
    tokens = token_namer(tokenizer)
    outputs = None
    if settings.names is not None or tokens is not None:
        outputs = output_namer(settings.names, target.model, tokens)

    other = None
    if settings.beside is not None:
        second = open_run(settings.beside, device=settings.device)
        other = Beside(settings.beside.resolve().name, second.decomposition, second.load_measures())

    def say(address: str) -> None:
        print(f"Explorer at\n\n  {address}\n\nCtrl-C ends it.", flush=True)

    explore(
        opened.decomposition,
        target,
        opened.samples(),
        measures,
        tokenizer=tokenizer if hasattr(target.model, "generate") else None,
        token_names=tokens,
        output_names=outputs,
        folder=settings.run,
        other=other,
        title=title_of(opened.model, opened.decomposition.layout.names),
        command=opened.named,
        port=settings.port,
        open_browser=settings.open,
        say=say,
    )
