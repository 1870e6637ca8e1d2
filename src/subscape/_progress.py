"""Progress bars: in a terminal or a notebook, never into a log."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm


def bar(
    what: str, items: Iterable[Any] | None = None, *, progress: bool = True, **tqdm_settings: Any
) -> tqdm[Any]:
    """A bar over `items`, or to be moved by hand; hidden where `progress` is False or nobody looks."""
    return tqdm(items, desc=what, disable=None if progress else True, **tqdm_settings)
