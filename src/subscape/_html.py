"""What objects look like in a notebook."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape


def table(caption: str, head: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """An HTML table under its caption; whatever cells hold is shown as text."""

    def line(cells: Iterable[object], kind: str) -> str:
        return "<tr>" + "".join(f"<{kind}>{escape(str(c))}</{kind}>" for c in cells) + "</tr>"

    body = "".join(line(cells, "td") for cells in rows)
    return f"<pre>{escape(caption)}</pre><table>{line(head, 'th')}{body}</table>"


class Printed:
    """What a notebook shows as it is printed."""

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"
