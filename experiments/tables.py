"""Tables in Markdown, and pages that they are put into."""

from pathlib import Path

from subscape._io import write_text
from subscape._markdown import put_into, table

__all__ = ["table", "write_into"]


def write_into(page: Path, name: str, text: str) -> None:
    """Put a text between the page's two marks of that name."""
    write_text(page, put_into(page.read_text(encoding="utf-8"), name, text))
