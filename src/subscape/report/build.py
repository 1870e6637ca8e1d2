"""From a decomposition and its measures to the report page.

The page's script reads the record of the measures as it is (`measures.json`); beside it stands what only the
decomposition and the kept samples know.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from subscape._checks import require
from subscape._shapes import Float, Int
from subscape.measures.kept import tokens_at
from subscape.measures.record import Measures, Record, TopOutputs, TopSample, number, rounded
from subscape.measures.rule_names import SHARE, RuleNames, rule_names
from subscape.report.images import data_uri, is_images
from subscape.report.labels import Labels
from subscape.report.moving import moving
from subscape.report.page import write_page
from subscape.scorecard import Scorecard
from subscape.subnetworks.decomposition import Decomposition
from subscape.subnetworks.neighbours import Neighbours
from subscape.targets import Target

LONGEST_VECTOR = 64
"""Vector inputs up to this length are shown."""
SETTINGS = (
    *(
        "divergence",
        "reference",
        "rows",
        "n_subnetworks",
        "rank",
        "form",
        "selection",
        "group_size",
    ),
    *("l0", "active_fraction", "steps", "batch_size", "learning_rate", "n_restarts", "seed"),
)
METRICS = ["fvu", "l0", "dead", "heldout_rows", "fvu_row_by_row", "l0_row_by_row"]
MANY = 1_000
"""Above so many subnetworks a map has one byte a pair instead of two: it has more cells than a screen."""
N_NEAR = 6
"""Others that a card names."""
FEW = 3
"""Outputs of a single top row that such a page keeps, raised and lowered each."""
Pictures = Sequence[tuple[str, str, str | Path]]


def write_report(
    out: str | Path,
    decomposition: Decomposition,
    measures: Measures,
    *,
    title: str,
    figures: Pictures = (),
    scorecard: Scorecard | None = None,
    labels: Labels | None = None,
    model: nn.Module | Target | None = None,
    output_names: Callable[[int], str] | None = None,
    overwrite: bool = True,
    progress: bool = False,
) -> Path:
    """Write a measured decomposition as one HTML file that opens in any browser, without a network.

    Args:
        out: the file.
        decomposition: the subnetworks.
        measures: their measures.
        title: headline.
        figures: title, caption and PNG file of pictures to show beside the overview.
        scorecard: what `score` found, to show beside the overview.
        labels: names and notes that people gave; see `report.labels`.
        model: the model, or its target: a few rows are pushed now, so that sliders in the page can show it.
        output_names: name of an output, of those that only the sliders show.
        overwrite: replace a report that is there; anything else is never replaced.
        progress: show a progress bar.

    Raises:
        ValueError: if the measures or the scorecard are of another decomposition.
        FileExistsError: if something else is there.
    """
    data = page_data(
        decomposition, measures, title=title, figures=figures, scorecard=scorecard, labels=labels
    )
    if model is not None:
        data["moving"] = moving(
            decomposition, measures, model, output_names=output_names, progress=progress
        )
    return write_page(out, data, overwrite=overwrite)


def page_data(
    decomposition: Decomposition,
    measures: Measures,
    *,
    title: str,
    figures: Pictures = (),
    scorecard: Scorecard | None = None,
    labels: Labels | None = None,
) -> dict[str, Any]:
    """What the script of the page reads, ready for JSON but for the record."""
    measures.verify(decomposition)
    if scorecard is not None:
        scorecard.verify(decomposition)
    settings, metrics = decomposition.settings, decomposition.metrics
    by_rule, given = rule_names(measures), {} if labels is None else labels.labels
    return {
        "title": title,
        "model": decomposition.target["model"].split(".")[-1],
        "n_parameters": decomposition.layout.n_parameters,
        "tensors": [
            {"name": t.name, "shape": list(t.shape), "ranks": list(t.ranks)}
            for t in decomposition.layout.tensors
        ],
        "settings": {
            name: value if isinstance(value, str | int | float | bool) else str(value)
            for name in SETTINGS
            if (value := settings.get(name)) is not None
        },
        "heldout": {
            m: v
            for m in METRICS
            if isinstance(v := metrics.get(m), int | float) and math.isfinite(v)
        },
        "notes": [*_notes(measures), _of_names(by_rule, len(measures))],
        "similarity": related(decomposition.neighbours()),
        "coactivation": related(measures.coactivation),
        "samples": _samples(measures),
        "rule_names": {
            k: v for k, v in by_rule.names.items() if k not in given or given[k].name != v
        },
        "labels": given,
        "figures": [
            {"title": name, "caption": caption, "image": _png(Path(file))}
            for name, caption, file in figures
        ],
        "scorecard": scorecard,
        "measures": thinned(measures.record),
    }


def thinned(record: Record) -> Record:
    """Above `MANY` subnetworks, fewer outputs of every single top row: they are most of what a page holds."""
    if len(record.subnetworks) <= MANY:
        return record
    return replace(
        record,
        subnetworks=tuple(
            replace(entry, top_samples=tuple(map(_with_few_outputs, entry.top_samples)))
            for entry in record.subnetworks
        ),
    )


def _with_few_outputs(row: TopSample) -> TopSample:
    top = row.outputs
    return row if top is None else replace(row, outputs=TopOutputs(top.up[:FEW], top.down[:FEW]))


def _samples(measures: Measures) -> dict[int, dict[str, Any]]:
    """The samples that top rows point to, by place in the data: tokens, a thumbnail, or values; and label."""
    kept = measures.samples
    inputs, labels = kept.get("input_ids", kept.get("inputs")), kept.get("labels")
    found: dict[int, dict[str, Any]] = {}
    for place, index in enumerate(kept["index"].tolist()):
        label = {} if labels is None else {"label": str(labels[place].item())}
        found[index] = label | ({} if inputs is None else _shown(inputs, place, measures))
    return found


def _shown(inputs: Tensor, place: int, measures: Measures) -> dict[str, Any]:
    sample = inputs[place]
    if measures.names.tokens and not sample.is_floating_point():
        ids = "input_ids" in measures.samples
        return {"tokens": tokens_at(measures.samples, place) if ids else sample.tolist()}
    return shown_sample(sample)


def shown_sample(sample: Float[Tensor, "..."] | Int[Tensor, "..."]) -> dict[str, Any]:
    """One sample that is no text: a thumbnail, or its values where they are few."""
    if is_images(sample[None]):
        return {"image": data_uri(sample)}
    if sample.numel() <= LONGEST_VECTOR:
        return {"values": [rounded(float(v)) for v in sample.flatten()]}
    return {}


def related(neighbours: Neighbours) -> str | dict[str, list[Any]]:
    """A map of all pairs; of more subnetworks than one shows, the few others that a card names."""
    if neighbours.whole:
        return packed(neighbours.matrix())
    few = slice(0, N_NEAR)
    values = [[number(v) for v in row] for row in neighbours.values[:, few].tolist()]
    return {"others": neighbours.others[:, few].tolist(), "values": values}


def packed(symmetric: Float[Tensor, "n n"]) -> str:
    """The upper triangle of a map of numbers from −1 to 1, diagonal included, as base64 of whole numbers.

    Of 16 bits, 32,000 for 1 and −32,768 for no number; above `MANY` rows of 8 bits, 125 and −128.
    """
    upper = symmetric.detach()[tuple(torch.triu_indices(*symmetric.shape))].double().clamp(-1, 1)
    one, none, kind = (125, -128, "<i1") if len(symmetric) > MANY else (32_000, -32_768, "<i2")
    whole = torch.where(upper.isnan(), none, (upper * one).round()).cpu().numpy()
    return base64.b64encode(whole.astype(kind).tobytes()).decode("ascii")


def _notes(measures: Measures) -> list[str]:
    spread = f"({measures.spread or 0:.3g} {measures.unit_of_changes})"
    share = f"{measures.settings.change:g} × the median divergence between two rows {spread}"
    notes = [
        f"Sweeps go to the δ at which the outputs of a subnetwork's top rows change by {share}.",
        "Random directions have the same norm and rank in every tensor, and are measured on the same rows.",
        "Principal directions have full rank. They are fitted to the measured rows themselves, which "
        "flatters them, or to the number of other rows given, far fewer than training sees. Best codes: as "
        "many active as subnetworks, with optimal coefficients, which no encoder had to find.",
        "Irrelevant rows are drawn at random, leaving out those in which the subnetwork is active.",
    ]
    ranked = measures.settings.rank_by
    share = ranked == "share" or (ranked == "auto" and measures.rows == "sample")
    notes.append(
        f"Top samples are ranked by impact{' over the length of the gradient' if share else ''}; of rows "
        "with the same context only one is listed."
    )
    if measures.rows == "token":
        notes.append(
            "Every position of a window is a row; a window appears once among top samples."
        )
    return notes


def _of_names(found: RuleNames, n: int) -> str:
    return (
        f"{len(found.names)} of {n} subnetworks have a name by rule: what {SHARE:.0%} of their top rows share and "
        f"few others do; {found.n_shuffled} would if top rows were assigned at random."
    )


def _png(file: Path) -> str:
    require(file.is_file(), "figures", "a picture that exists", str(file))
    return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"
