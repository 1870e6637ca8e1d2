"""The command line: `subscape demo`, `decompose`, `reproduce`. Thin: every flag is a config field."""

from subscape.cli.main import main

__all__ = ["main"]
