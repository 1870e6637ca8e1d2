"""Scorecards of finished runs as a figure and as the tables of a page.

    python examples/scorecard.py
    subscape evaluate runs/attention --against runs/attention-seed-1
    python experiments/scorecards.py runs/attention runs/digits --write docs/evaluate.md

Draws, for every run and section, the figure in question for the subnetworks (dark) and every control (light) into
docs/images/scorecard.png, and puts all tables between the page's marks. Seconds.
"""

import argparse
from pathlib import Path

from tables import write_into

from subscape._io import save_figure
from subscape.report.plotting import INK, new_figure
from subscape.scorecard import Scorecard
from subscape.scorecard.record import FOLDER, Section, head, shown

HEADLINES = {
    "reconstruction": "best codes",
    "agreement": "any of these",
    "selectivity": "AUROC",
    "separation": "token",
    "probes": "token, 5",
    "stability": "mean correlation",
    "adversary": "ascent ÷ random",
    "twin": "explained ÷ principal",
}
"""What is drawn of every section; its first column where there is none of this name."""
OURS, CONTROL = "#2563a8", "#b9c0c8"


def drawn(section: Section) -> tuple[str, list[tuple[str, float, bool]]]:
    """Name of the column drawn, and the lines that have a value."""
    names = [c.name for c in section.columns]
    wanted = HEADLINES[section.key]
    at = names.index(wanted) if wanted in names else 0
    values = [(e.name, v, e.ours) for e in section.lines if (v := e.values[at]) is not None]
    return head(section.columns[at]), values


def figure(cards: dict[str, Scorecard], path: Path) -> Path:
    """One panel for every run and section."""
    keys = [k for k in HEADLINES if any(c[k].left_out is None for c in cards.values())]
    page = new_figure((5.2 * len(cards), 1.15 * len(keys)))
    panels = page.subplots(len(keys), len(cards), squeeze=False)
    for row, key in zip(panels, keys, strict=True):
        for panel, (name, card) in zip(row, cards.items(), strict=True):
            panel.spines[["top", "right"]].set_visible(False)
            panel.tick_params(labelsize=7, colors=INK)
            section = card[key]
            if section.left_out is not None:
                panel.set_axis_off()
                continue
            column, lines = drawn(section)
            colours = [OURS if ours else CONTROL for _, _, ours in lines]
            panel.barh([e[0] for e in lines], [e[1] for e in lines], color=colours, height=0.7)
            panel.invert_yaxis()
            start = f"{name}: " if key == keys[0] else ""
            panel.set_title(f"{start}{key}, {column}", fontsize=8, loc="left", color=INK)
    return save_figure(page, path)


def tables(cards: dict[str, Scorecard]) -> str:
    """All sections as Markdown."""
    text = []
    for name, card in cards.items():
        text += [
            f"### {name}",
            "",
            f"{card.n_subnetworks} subnetworks, scored on {card.n_rows:,} rows; controls fitted on {card.n_fit:,} "
            f"others; {card.seconds:.0f} s of processor time.",
            "",
        ]
        for section in card.sections:
            text += [f"**{section.title}**", ""]
            if section.left_out is not None:
                text += [f"Left out: {section.left_out}.", ""]
                continue
            heads = [head(c).replace("|", "\\|") for c in section.columns]
            text.append("| | " + " | ".join(heads) + " |")
            text.append("|---" * (len(section.columns) + 1) + "|")
            for e in section.lines:
                bold = "**" if e.ours else ""
                values = [shown(v, c) for v, c in zip(e.values, section.columns, strict=True)]
                text.append(f"| {bold}{e.name}{bold} | " + " | ".join(values) + " |")
            text += ["", *section.notes, ""]
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="run folders that were evaluated")
    parser.add_argument("--write", type=Path, help="page to put the tables into")
    parser.add_argument("--figure", type=Path, default=Path("docs/images/scorecard.png"))
    arguments = parser.parse_args()
    cards = {run.name: Scorecard.load(run / FOLDER) for run in arguments.runs}
    print(figure(cards, arguments.figure))
    if arguments.write is None:
        print(tables(cards))
        return
    write_into(arguments.write, "tables", tables(cards))


if __name__ == "__main__":
    main()
