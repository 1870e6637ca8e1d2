"""The report: one self-contained HTML page of a decomposition, to open, read and share.

In go data in the format `subscape-report/1` (see `page_data`), out comes one file that holds its own
style, script and pictures and is forbidden to ask the network for anything. Nothing is measured here.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import logging
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from subscape._io import check_free, write_text
from subscape.report.page_data import FORMAT, checked

logger = logging.getLogger(__name__)

SCRIPTS = (
    "words.js",
    "parts.js",
    "charts.js",
    "maps.js",
    "overview.js",
    "list.js",
    "card.js",
    "main.js",
)
"""The script of the page, in the order in which its parts need one another."""

LARGE = 10_000_000
"""A page of more bytes than this is written, with a warning."""

# Within a script element these can end it, open a comment or break old parsers; in JSON they only
# occur inside strings, where an escape means the same. Lone surrogates are not UTF-8.
_UNSAFE = re.compile("[<>&\u2028\u2029\ud800-\udfff]")


def render_page(data: Mapping[str, Any]) -> str:
    """Make the report page of a decomposition.

    Args:
        data: what to show, in the format `subscape-report/1`.

    Returns:
        The page as HTML.

    Raises:
        TypeError: if the data are no mapping.
        ValueError: if something in them is missing, unknown, of the wrong length or not finite.
    """
    page = checked(data)
    style = _asset("page.css")
    parts = [_asset(name) for name in SCRIPTS]
    script = "\n".join(['"use strict";\n(() => {', *parts, "})();"])
    fields = {
        "title": html.escape(_printable(page["title"])),
        "policy": _policy(script, style),
        "style": style,
        "script": script,
        "data": _embedded(page),
    }
    # All at once, so that a title such as "{{data}}" stays what it is.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: fields[match[1]], _asset("page.html"))


def write_page(path: str | Path, data: Mapping[str, Any], *, overwrite: bool = False) -> Path:
    """Write the report page of a decomposition, whole or not at all.

    Args:
        path: the file to write; its folder is made if need be.
        data: what to show, in the format `subscape-report/1`.
        overwrite: whether to replace a file that is there.

    Returns:
        The file written.

    Raises:
        IsADirectoryError: if the path is a folder.
        FileExistsError: if the file exists and is not to be replaced.
        OSError: if it cannot be written.
        TypeError: if the data are no mapping.
        ValueError: if something in them is missing, unknown, of the wrong length or not finite.
    """
    path = Path(path)
    check_free(path, overwrite=overwrite, owned=_is_page)
    page = render_page(data)
    write_text(path, page)
    size = len(page.encode())
    if size > LARGE:
        logger.warning("%s has %.1f MB: fewer top samples would make it smaller", path, size / 1e6)
    return path


def _is_page(path: Path) -> bool:
    text = path.read_text(encoding="utf-8", errors="replace")
    return text.startswith("<!doctype html>") and FORMAT in text


def _asset(name: str) -> str:
    return (resources.files("subscape.report") / "assets" / name).read_text(encoding="utf-8")


def _embedded(page: dict[str, Any]) -> str:
    """JSON that can stand inside a script element, whatever its strings hold."""
    text = json.dumps(page, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _policy(script: str, style: str) -> str:
    """Forbid all but this one script, this one style and pictures within the page."""
    return "; ".join([
        "default-src 'none'",
        f"script-src '{_digest(script)}'",
        f"style-src '{_digest(style)}'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ])


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")
