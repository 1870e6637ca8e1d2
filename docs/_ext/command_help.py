"""`{command-help}`: what every command of `subscape` says to `--help`."""

import contextlib
import io
import os
from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from subscape.cli.main import COMMANDS, main

COLUMNS = "96"


def help_of(arguments: list[str]) -> str:
    """What a command prints."""
    text = io.StringIO()
    os.environ["COLUMNS"] = COLUMNS
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        main([*arguments, "--help"])
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


class CommandHelp(SphinxDirective):
    """A section for every command."""

    has_content: ClassVar[bool] = False

    def run(self) -> list[nodes.Node]:
        """The sections."""
        sections: list[nodes.Node] = [nodes.literal_block(text=help_of([]), language="text")]
        for name, what in COMMANDS.items():
            title = f"subscape {name}"
            section = nodes.section(ids=[nodes.make_id(title)])
            section += nodes.title(text=title)
            section += nodes.paragraph(text=what)
            section += nodes.literal_block(text=help_of([name]), language="text")
            sections.append(section)
        return sections


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True}
