"""A comparison of two runs as one page: its figures, and every pair with what each side is for."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from subscape._io import check_free, write_text
from subscape.measures.record import Measures
from subscape.report.brief import brief
from subscape.scorecard.compare import Comparison, Pair

MARK = "subscape-comparison/1"
STYLE = """
body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem;color-scheme:light dark}
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%}
th,td{text-align:left;vertical-align:top;padding:.4rem .6rem;border-bottom:1px solid #8886}
td.n{font-variant-numeric:tabular-nums;text-align:right;white-space:nowrap}
p.context{margin:0;font-size:.9em}mark{background:#fd06;color:inherit}
img{image-rendering:pixelated;width:40px;margin-right:2px}
"""


def write_comparison(
    out: str | Path,
    comparison: Comparison,
    titles: tuple[str, str],
    *,
    names: tuple[Mapping[int, str], Mapping[int, str]] = ({}, {}),
    measures: tuple[Measures | None, Measures | None] = (None, None),
    overwrite: bool = True,
) -> Path:
    """Write a comparison as one HTML file, which asks for nothing from elsewhere.

    Args:
        out: the file.
        comparison: of two runs.
        titles: what they are called.
        names: of subnetworks, by number, in each.
        measures: of each, whose top samples are shown.
        overwrite: replace a comparison that is there; anything else is never replaced.

    Raises:
        FileExistsError: if something else is there.
    """
    out = Path(out)
    check_free(out, overwrite=overwrite, owned=is_comparison, name="out")
    title = html.escape(" and ".join(titles))
    head = ["", *(html.escape(t) for t in titles)]
    cells = "".join(f"<th scope=col>{name}</th>" for name in ("correlation", "cosine", *head[1:]))
    rows = "".join(_row(pair, names, measures) for pair in comparison.pairs)
    figures = "".join(f"<p>{html.escape(line)}</p>" for line in str(comparison).splitlines())
    page = (
        f"<!doctype html><!-- {MARK} --><html lang=en><meta charset=utf-8>"
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\"><meta name=viewport content='width=device-width'>"
        f"<title>{title}</title><style>{STYLE}</style><main><h1>{title}</h1>{figures}"
        f"<div class=wide tabindex=0><table><thead><tr>{cells}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div></main></html>\n"
    )
    write_text(out, page)
    return out


def is_comparison(path: Path) -> bool:
    """Whether it is a page of a comparison."""
    return MARK in path.read_text(encoding="utf-8", errors="replace")[:200]


def _row(
    pair: Pair, names: Sequence[Mapping[int, str]], measures: Sequence[Measures | None]
) -> str:
    cosine = "–" if pair.cosine is None else f"{pair.cosine:+.2f}"
    figures = f"<td class=n>{pair.correlation:+.2f}</td><td class=n>{cosine}</td>"
    sides = zip((pair.a, pair.b), names, measures, strict=True)
    return f"<tr>{figures}{''.join(_side(*side) for side in sides)}</tr>"


def _side(index: int, names: Mapping[int, str], measures: Measures | None) -> str:
    parts = [f"<b>{index}</b> {html.escape(names.get(index, ''))}"]
    if measures is not None:
        known = brief(measures, index)
        for context in known["contexts"]:
            before, at, after = map(html.escape, context)
            parts.append(f"<p class=context dir=auto>{before}<mark>{at}</mark>{after}</p>")
        parts += [f'<img alt="" src="{image}">' for image in known["images"]]
    return f"<td>{''.join(parts)}</td>"
