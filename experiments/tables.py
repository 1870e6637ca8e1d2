"""Tables in Markdown, and pages that they are put into."""

from collections.abc import Sequence
from pathlib import Path

from subscape._io import write_text


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table with a line of titles."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def write_into(page: Path, name: str, text: str) -> None:
    """Put a text between the page's two marks of that name."""
    first, last = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, rest = page.read_text(encoding="utf-8").split(first, 1)
    write_text(page, f"{before}{first}{text}\n{last}{rest.split(last, 1)[1]}")
