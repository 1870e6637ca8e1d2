"""Find the command, import it alone, carry it out, and turn errors into one line."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import FrameType

from subscape._checks import nearest, out_of_memory, problem, require
from subscape._version import __version__

ERRORS = (ValueError, TypeError, ImportError, OSError)
"""What a wrong argument raises at the library's door; anything else is the model's error or a bug."""
RESUMED = ("decompose", "measure", "evaluate", "label", "basis")
"""Commands that go on where they were stopped."""

COMMANDS = {
    "inspect": "List a model's parameters by module, and what decomposing each would cost.",
    "decompose": "Decompose a model into sparsely active, low-rank directions in parameter space.",
    "consolidate": "Merge duplicate subnetworks of a run, drop useless ones, and refit.",
    "measure": "Measure what every subnetwork of a run is for, and what pushing it does.",
    "evaluate": "Score a run against controls: every number beside chance and simpler methods.",
    "top": "List the subnetworks of a measured run, or the top samples of one.",
    "report": "Write a measured run as one HTML file.",
    "label": "Name subnetworks by rule, or by asking a language model.",
    "explore": "Look at a measured run and push its subnetworks, live in a browser.",
    "push": "Upload a run to the Hugging Face Hub, with its figures and report.",
    "sweep": "Push one subnetwork, or two together, and see how far outputs move.",
    "edit": "Move a model along subnetworks: generate text, write a LoRA, save the model.",
    "encode": "Show which subnetworks each token of a text uses, or write the codes of data to a file.",
    "finetune": "Learn how far to move along each subnetwork, for data and a loss of your own.",
    "compare": "Pair the subnetworks of two runs by what they are active for.",
    "contrast": "Say which subnetworks of a run tell two sets of inputs apart.",
    "check": "Check the row gradients of a model against plain autograd.",
    "demo": "Decompose a toy with known circuits and a classifier of digits, in a minute.",
    "reproduce": "Train and decompose the published toys over many seeds.",
    "completion": "Print a script by which the shell completes commands and flags.",
    "basis": "Compute the Local Interaction Basis of a network.",
}
"""Modules of this package, each with a settings class `<Name>Run` and a function `run`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the command line without the program's name; by default that of the process.

    Returns:
        Exit status: 0, 1 if `check` finds an error, 2 for a wrong argument, 130 when interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    with warnings.catch_warnings(), _noted_interrupts() as interrupts:
        warnings.filterwarnings("ignore", message="There is a performance drop")
        warnings.showwarning = _shown_once()
        try:
            status = _run(*arguments)
            sys.stdout.flush()
        except BrokenPipeError:  # the reader, such as `head`, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except (Exception, KeyboardInterrupt) as raised:
            if debug:
                traceback.print_exc()
            error = KeyboardInterrupt() if interrupts else raised
            # Other packages' errors may have several lines.
            print(f"subscape{_process()}:", *_line(error, arguments).split(), file=sys.stderr)
            return 130 if isinstance(error, KeyboardInterrupt) else 2
    return status if isinstance(status, int) else 0


@contextmanager
def _noted_interrupts() -> Generator[list[int]]:
    """Interrupts so far: a package that is being loaded may swallow one, and then fail in another way."""
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        signal.default_int_handler(number, frame)

    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not usual or threading.current_thread() is not threading.main_thread():
        yield noted
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _process() -> str:
    """Which of several processes this is, if it is not the first."""
    rank = os.environ.get("RANK", "0")
    return "" if rank == "0" else f" (process {rank})"


def _line(error: BaseException, arguments: Sequence[str]) -> str:
    """What to say of an error."""
    if isinstance(error, KeyboardInterrupt):
        resumed = bool(arguments) and arguments[0] in RESUMED
        return "interrupted" + "; give the same command again to resume" * resumed
    if out_of_memory(error):
        repair = "Take fewer rows at once (--memory-gib, --batch-size), or another --device."
        return problem("memory", "room for this command", str(error) or "none left", repair)
    if isinstance(error, ERRORS):
        return str(error)
    at = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{at.filename}:{at.lineno}"
    return f"{type(error).__name__}: {error} (at {where}; see all of it with --debug)"


def _run(command: str = "--help", *arguments: str) -> object:
    if command in ("-h", "--help"):
        print(_help())
        return 0
    if command == "--version":
        print(f"subscape {__version__}")
        return 0
    known = f"one of the commands {', '.join(COMMANDS)}"
    repair = nearest(command, COMMANDS) or "See subscape --help."
    require(command in COMMANDS, "command", known, repr(command), repair)
    shared = command == "decompose" or "RANK" not in os.environ
    alone = shared or import_module("subscape._ranks").n_launched() == 1
    require(alone, "command", "decompose, with several processes", repr(command), "Start it once.")
    module = import_module(f"subscape.cli.{command}")
    if command == "decompose":
        return module.run(module.parsed(arguments))
    parsed = import_module("subscape.cli.flags").parsed
    return module.run(parsed(getattr(module, f"{command.title()}Run"), command, arguments))


def _help() -> str:
    return "\n".join([
        "usage: subscape COMMAND ...",
        "",
        "Find the sparsely active subnetworks in a model's loss landscape.",
        "",
        *(f"  {name:<13}{what}" for name, what in COMMANDS.items()),
        "",
        "  subscape COMMAND --help   options of a command, with an example",
        "  subscape COMMAND --debug  show where an error comes from",
        "  subscape --version",
    ])


def _shown_once() -> Callable[..., None]:
    """Shows a warning in one line, without the line of our code that raised it, and not a second time."""
    seen: set[str] = set()

    def show(message: Warning | str, *_: object, **__: object) -> None:
        text = str(message)
        if text not in seen and not _process():
            print(f"subscape: {text}", file=sys.stderr)
        seen.add(text)

    return show
