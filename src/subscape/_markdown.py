"""Tables in Markdown, and pages that they are put into."""

from __future__ import annotations

from collections.abc import Sequence

from subscape._checks import require


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table with a line of titles."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def put_into(page: str, name: str, text: str) -> str:
    """A page with a text between its marks `<!-- name -->` and `<!-- end of name -->`."""
    first, last = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, _, rest = page.partition(first)
    _, end, after = rest.partition(last)
    require(bool(end), "page", f"the marks {first.strip()} and {last}", "none, or one of them")
    return f"{before}{first}{text}\n{end}{after}"
