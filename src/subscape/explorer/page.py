"""The explorer's page: the report's own, with screens that ask the server."""

from __future__ import annotations

import re
from typing import Any

from subscape.explorer.session import Session
from subscape.explorer.takeaway import Takeaway
from subscape.report.build import page_data
from subscape.report.page import asset, render_page

SCREENS = ("server.js", "gallery.js", "playground.js", "compare.js")
"""Scripts of the explorer, after those of the report's page that they build on."""


def explorer_page(
    session: Session,
    takeaway: Takeaway,
    title: str,
    command: str,
    beside: dict[str, Any] | None = None,
) -> str:
    """The page as text."""
    labels = takeaway.labels()
    data: dict[str, Any] = page_data(
        session.decomposition, session.measures, title=title, labels=labels
    )
    first = int(session.measures.samples["index"][0]) if len(session.measures) else 0
    data["live"] = {
        "command": command,
        "takes_text": session.takes_text,
        "beside": beside,
        "by_token": session.by_token,
        "n_samples": session.n_samples,
        "first": first,
        "model": hasattr(session.target.model, "save_pretrained"),
    }
    return render_page(
        data,
        more=tuple(_asset(name) for name in SCREENS),
        more_style=_asset("explorer.css"),
        connect="'self'",
    )


def policy_of(page: str) -> str:
    """The policy that a page states itself, to be sent as a header too."""
    found = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert found is not None
    return found[1]


def _asset(name: str) -> str:
    return asset("subscape.explorer", name)
