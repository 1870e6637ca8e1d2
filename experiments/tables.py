"""Tables in Markdown, and pages that they are put into."""

from collections.abc import Sequence
from pathlib import Path

from subscape._io import write_text

START, END = "<!-- table -->\n", "<!-- end of table -->"


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table with a line of titles."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def write_between(page: Path, text: str) -> None:
    """Put a text between the two marks of a page."""
    before, rest = page.read_text(encoding="utf-8").split(START, 1)
    write_text(page, f"{before}{START}{text}\n{END}{rest.split(END, 1)[1]}")
