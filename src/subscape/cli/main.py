"""Parse the command line, carry out the command, and turn errors into one line."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from subscape._checks import problem
from subscape.cli import (
    basis,
    check,
    decompose,
    demo,
    edit,
    measure,
    report,
    reproduce,
    sweep,
    toml,
    top,
)

ERRORS = (ValueError, TypeError, ImportError, OSError)
"""What a wrong argument raises at the library's door; anything else is a bug and keeps its traceback."""


RUN: dict[type, Callable[[Any], Any]] = {
    decompose.DecomposeRun: decompose.run,
    measure.MeasureRun: measure.run,
    top.TopRun: top.run,
    sweep.SweepRun: sweep.run,
    edit.EditRun: edit.run,
    report.ReportRun: report.run,
    check.CheckRun: check.run,
    demo.DemoRun: demo.run,
    reproduce.ReproduceRun: reproduce.run,
    basis.BasisRun: basis.run,
}
"""What carries out each command; an integer it returns is the exit status."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the command line without the program's name; by default that of the process.

    Returns:
        Exit status: 0, 1 if `check` finds an error, 2 for a wrong argument, 130 when interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")
        warnings.showwarning = _shown_once()
        return _run(arguments)


def _run(arguments: list[str]) -> int:
    try:
        arguments, of_file, file = _config_file(arguments)
        defaults = decompose.without_code(of_file)
        commands = (
            Annotated[
                decompose.DecomposeRun, tyro.conf.subcommand(name="decompose", default=defaults)
            ]
            | Annotated[measure.MeasureRun, tyro.conf.subcommand(name="measure")]
            | Annotated[top.TopRun, tyro.conf.subcommand(name="top")]
            | Annotated[sweep.SweepRun, tyro.conf.subcommand(name="sweep")]
            | Annotated[edit.EditRun, tyro.conf.subcommand(name="edit")]
            | Annotated[report.ReportRun, tyro.conf.subcommand(name="report")]
            | Annotated[check.CheckRun, tyro.conf.subcommand(name="check")]
            | Annotated[demo.DemoRun, tyro.conf.subcommand(name="demo")]
            | Annotated[reproduce.ReproduceRun, tyro.conf.subcommand(name="reproduce")]
            | Annotated[basis.BasisRun, tyro.conf.subcommand(name="basis")]
        )
        chosen = tyro.cli(
            commands,  # pyright: ignore[reportArgumentType]
            prog="subscape",
            description="Find the sparsely active subnetworks in a model's loss landscape.",
            args=arguments,
        )
        if isinstance(chosen, decompose.DecomposeRun) and file is not None:
            chosen = decompose.with_code(chosen, of_file, file)
        status = RUN[type(chosen)](chosen)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ERRORS as error:
        # Other packages' errors may have several lines.
        print("subscape:", " ".join(str(error).split("\n")), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "subscape: interrupted; the same command goes on from the last checkpoint",
            file=sys.stderr,
        )
        return 130
    return status if isinstance(status, int) else 0


def _shown_once() -> Callable[..., None]:
    """Shows a warning in one line, without the line of our code that raised it, and not a second time."""
    seen: set[str] = set()

    def show(message: Warning | str, *_: object, **__: object) -> None:
        text = str(message)
        if text not in seen:
            print(f"subscape: {text}", file=sys.stderr)
        seen.add(text)

    return show


def _config_file(arguments: list[str]) -> tuple[list[str], decompose.DecomposeRun, Path | None]:
    """Take `--config FILE` out of the arguments of `decompose`; the file gives the flags' defaults."""
    if arguments[:1] != ["decompose"]:
        return arguments, decompose.DecomposeRun(), None
    arguments = [part for a in arguments for part in _split(a)]
    if "--config" not in arguments:
        return arguments, decompose.DecomposeRun(), None
    at = arguments.index("--config")
    if at + 1 == len(arguments):
        raise ValueError("config: expected a TOML file after --config; got nothing.")
    path = Path(arguments[at + 1])
    settings = toml.build(decompose.DecomposeRun, toml.read(path), str(path))
    if settings.overwrite or settings.trust:
        key = "trust" if settings.trust else "overwrite"
        raise ValueError(
            problem(str(path), "settings of a run", key, f"Say --{key} on the command line.")
        )
    return arguments[:at] + arguments[at + 2 :], settings, path


def _split(argument: str) -> list[str]:
    """`--config=FILE` as two arguments."""
    return argument.split("=", 1) if argument.startswith("--config=") else [argument]
