"""`subscape completion`: a script by which the shell completes commands, flags and their choices."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from subscape._version import __version__
from subscape.cli.main import COMMANDS, main

BASH = """# Completion of subscape {version} for bash and zsh.
_subscape() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" words=""
  if [ "$COMP_CWORD" -eq 1 ]; then
    words="{commands}"
  else
    case "${{COMP_WORDS[1]}} $before" in
{choices}
      *)
        case "$word" in
          -*)
            case "${{COMP_WORDS[1]}}" in
{flags}
            esac ;;
        esac ;;
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _subscape subscape
"""
FLAG = re.compile(r"^[│ ] (?:-\w[^,\n]*, )?(--[a-z][\w-]*)(?: \{([^}]*)\})?", re.MULTILINE)
"""At the beginning of a line of help, with or without a frame."""
WIDTH = "96"
"""Columns: in wider help flags stand in two columns."""
ZSH = "autoload -U +X bashcompinit && bashcompinit\n"


@dataclass(frozen=True)
class CompletionRun:
    """Print a script by which the shell completes commands, flags and their choices.

    It takes some seconds, so write it to a file that your shell reads at its start.

    Example: subscape completion bash > ~/.local/share/bash-completion/completions/subscape
    """

    shell: Annotated[Literal["bash", "zsh"], tyro.conf.Positional]
    """For which shell."""


def run(settings: CompletionRun) -> None:
    """Carry out the command."""
    known = {name: flags_of(name) for name in COMMANDS}
    flags = [_case(name, some) for name, some in known.items()]
    choices = [
        _case(f"{name} {flag}", words)
        for name, some in known.items()
        for flag, words in some.items()
        if words
    ]
    script = BASH.format(
        version=__version__,
        commands=" ".join([*COMMANDS, "--help", "--version"]),
        choices="\n".join(f"      {line}" for line in choices),
        flags="\n".join(f"              {line}" for line in flags),
    )
    print(ZSH * (settings.shell == "zsh") + script, end="")


def flags_of(command: str) -> dict[str, list[str]]:
    """The flags of a command, each with what it takes where that is one of a few words: as its help has them."""
    text = io.StringIO()
    os.environ["COLUMNS"] = WIDTH
    with redirect_stdout(text), suppress(SystemExit):
        main([command, "--help"])
    return {
        flag: sorted({*choices.split(",")} - {"None", ""})
        for flag, choices in FLAG.findall(text.getvalue())
    }


def _case(pattern: str, words: Iterable[str]) -> str:
    return f'"{pattern}") words="{" ".join(words)}" ;;'
