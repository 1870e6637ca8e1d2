"""The report: one self-contained HTML page of a decomposition, to open, read and share.

In go data (see `build.page_data`), out comes one file that holds its own style, script and pictures and is
forbidden to ask the network for anything. Nothing is measured here.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import logging
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from subscape._io import check_free, write_text

logger = logging.getLogger(__name__)

SCRIPTS = (
    *("words.js", "parts.js", "charts.js", "maps.js"),
    *("scorecard.js", "overview.js", "list.js", "card.js", "push.js", "main.js"),
)
"""The script of the page, in the order in which its parts need one another."""

FAMILY = "subscape-report/"
"""In every page of any version of the report, by which one is told."""
FORMAT = f"{FAMILY}2"
LARGE = 10_000_000
"""A page of more bytes than this is written, with a warning."""

# Within a script element these can end it, open a comment or break old parsers; in JSON they only
# occur inside strings, where an escape means the same. Lone surrogates are not UTF-8.
_UNSAFE = re.compile("[<>&\u2028\u2029\ud800-\udfff]")


def render_page(
    data: Mapping[str, Any],
    *,
    more: Sequence[str] = (),
    more_style: str = "",
    connect: str | None = None,
) -> str:
    """The page as text.

    Args:
        data: see `build.page_data`.
        more: further scripts, which add views before the first one is shown.
        more_style: rules after those of the page.
        connect: what the page may ask; by default nothing.
    """
    style = asset("subscape.report", "page.css") + more_style
    parts = [asset("subscape.report", name) for name in SCRIPTS]
    script = "\n".join(['"use strict";\n(() => {', *parts[:-1], *more, parts[-1], "})();"])
    fields = {
        "title": html.escape(_printable(data["title"])),
        "policy": _policy(script, style, connect),
        "style": style,
        "script": script,
        "data": _embedded(data),
    }
    # All at once, so that a title such as "{{data}}" stays what it is.
    page = asset("subscape.report", "page.html")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: fields[match[1]], page)


def write_page(out: str | Path, data: Mapping[str, Any], *, overwrite: bool = False) -> Path:
    """Write the page to a file, whole or not at all; warns of a large one."""
    out = Path(out)
    check_free(out, overwrite=overwrite, owned=is_page, name="out")
    page = render_page(data)
    write_text(out, page)
    size = len(page.encode())
    if size > LARGE:
        logger.warning("%s has %.1f MB: fewer top samples would make it smaller", out, size / 1e6)
    return out


def is_page(path: Path) -> bool:
    """Whether it is a report, of any version."""
    text = path.read_text(encoding="utf-8", errors="replace")
    return text.startswith("<!doctype html>") and FAMILY in text


def asset(package: str, name: str) -> str:
    """A file of a package's folder `assets`."""
    return (resources.files(package) / "assets" / name).read_text(encoding="utf-8")


def _embedded(data: Mapping[str, Any]) -> str:
    """JSON that can stand inside a script element, whatever its strings hold."""
    page = {"format": FORMAT, **msgspec.to_builtins(data)}
    text = json.dumps(page, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _policy(script: str, style: str, connect: str | None) -> str:
    """Forbid all but this one script, this one style and pictures within the page."""
    return "; ".join([
        "default-src 'none'",
        f"script-src '{_digest(script)}'",
        f"style-src '{_digest(style)}'",
        "img-src data:",
        *([f"connect-src {connect}"] if connect else []),
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ])


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")
