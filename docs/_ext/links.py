"""Every link within the site leads somewhere and no page loads anything from elsewhere, or the build fails."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from sphinx.application import Sphinx

LOADED = {"script": "src", "img": "src", "iframe": "src", "link": "href"}


class Page(HTMLParser):
    """The anchors and links of a page, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag names or leads to."""
        values = {name: value for name, value in attrs if value}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if LOADED.get(tag) in values:
            self.loaded.append(values[LOADED[tag]])


def broken(site: Path) -> Iterator[str]:
    """What is wrong, each as `page: link`."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        here = path.relative_to(site)
        yield from (f"{here}: loads {link}" for link in page.loaded if urlsplit(link).netloc)
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path.resolve()
            anchor = unquote(parts.fragment)
            lost = bool(anchor) and there in pages and anchor not in pages[there].ids
            if lost or not there.is_file():
                yield f"{here}: {link}"


def check(app: Sphinx, error: Exception | None) -> None:
    """Look through the whole site."""
    from sphinx.errors import ExtensionError

    if error is None and app.builder.name == "html":
        found = list(broken(Path(app.outdir).resolve()))
        if found:
            raise ExtensionError("broken links: " + "; ".join(found))


def setup(app: Sphinx) -> dict[str, bool]:
    """Look when everything is built."""
    app.connect("build-finished", check)
    return {"parallel_read_safe": True}
