"""From a decomposition and its measures to the data of the report page."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import subscape._version as version
from subscape._checks import problem
from subscape.measures.record import Measures
from subscape.report.images import data_uri, is_images
from subscape.report.page import write_page
from subscape.report.page_data import FORMAT
from subscape.subnetworks.decomposition import Decomposition

LONGEST_VECTOR = 64
"""Vector inputs up to this length are shown."""
SETTINGS = (
    "divergence",
    "reference",
    "rows",
    "n_subnetworks",
    "rank",
    "form",
    "active_fraction",
    "steps",
    "batch_size",
    "learning_rate",
    "n_restarts",
    "seed",
)


def write_report(
    path: str | Path,
    decomposition: Decomposition,
    measures: Measures,
    *,
    title: str,
    figures: Sequence[tuple[str, str, str | Path]] = (),
    overwrite: bool = False,
) -> Path:
    """Write a measured decomposition as one HTML file that opens in any browser, without a network.

    Args:
        path: the file.
        decomposition: the subnetworks.
        measures: their measures.
        title: headline.
        figures: title, caption and PNG file of pictures to show beside the overview.
        overwrite: replace the file if it is there.

    Returns:
        The file.

    Raises:
        ValueError: if the measures are of another decomposition.
        FileExistsError: if the file is there.
    """
    data = page_data(decomposition, measures, title=title, figures=figures)
    return write_page(path, data, overwrite=overwrite)


def page_data(
    decomposition: Decomposition,
    measures: Measures,
    *,
    title: str,
    figures: Sequence[tuple[str, str, str | Path]] = (),
) -> dict[str, Any]:
    """What the page shows, ready for `report.page.write_page`.

    Args:
        decomposition: the subnetworks.
        measures: their measures.
        title: headline.
        figures: title, caption and PNG file of pictures to show beside the overview.

    Returns:
        Data that JSON can hold.

    Raises:
        ValueError: if the measures are of another decomposition.
    """
    record = measures.record
    measures.verify(decomposition)
    shares = torch.stack(list(decomposition.norms().values()), dim=1).square()
    total = sum(entry["impact"] for entry in record["subnetworks"]) or 1.0
    samples = _Samples(measures)
    data: dict[str, Any] = {
        "format": FORMAT,
        "title": title,
        "subscape_version": version.__version__,
        "kind": samples.kind,
        "model": {"name": decomposition.target["model"].split(".")[-1]},
        "target": {
            "n_parameters": decomposition.layout.n_parameters,
            "tensors": [
                {"name": t.name, "shape": list(t.shape), "ranks": list(t.ranks)}
                for t in decomposition.layout.tensors
            ],
        },
        "settings": _settings(decomposition.settings),
        "quality": _quality(decomposition, record),
        "measured": {
            "n_rows": record["n_rows"],
            "n_references": record["n_references"],
            "unit": f"{record['unit']} per unit δ",
            "notes": _notes(record),
        },
        "similarity": [[round(v, 3) for v in row] for row in decomposition.similarity().tolist()],
        "coactivation": record["coactivation"],
        "subnetworks": [
            _entry(entry, shares[k], total, samples, record["names"]["outputs"])
            for k, entry in enumerate(record["subnetworks"])
        ],
    }
    if samples.images:
        data["images"] = samples.images
    if figures:
        data["figures"] = [
            {"title": name, "caption": caption, "image": _png(file)}
            for name, caption, file in figures
        ]
    return data


class _Samples:
    """How the samples that top rows point to are shown."""

    def __init__(self, measures: Measures) -> None:
        kept = measures.samples
        self.place = {int(i): j for j, i in enumerate(kept["index"].tolist())}
        self.tokens = measures.record["names"]["tokens"]
        self.labels = kept.get("labels")
        self.inputs = kept.get("input_ids", kept.get("inputs"))
        self.images: list[str] = []
        self._image_of: dict[int, int] = {}
        self.kind = "vectors"
        if self.inputs is not None and not self.inputs.is_floating_point() and self.tokens:
            self.kind = "tokens"
        elif self.inputs is not None and is_images(self.inputs):
            self.kind = "images"

    def shown(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The sample of a row: tokens with their context, a thumbnail, or its values."""
        place = self.place[row["sample"]]
        found: dict[str, Any] = {}
        if self.labels is not None:
            found["label"] = str(self.labels[place].item())
        if self.inputs is None:
            return found
        sample: Tensor = self.inputs[place]
        if self.kind == "tokens":
            texts = [self.tokens.get(str(int(i)), str(int(i))) for i in sample]
            at = row.get("position", len(texts) - 1)
            found |= {"tokens": texts, "at": at}
            if at + 1 < len(texts):
                found["next"] = texts[at + 1]
        elif self.kind == "images":
            if place not in self._image_of:
                self._image_of[place] = len(self.images)
                self.images.append(data_uri(sample))
            found["image"] = self._image_of[place]
        elif sample.numel() <= LONGEST_VECTOR:
            found["values"] = [round(float(v), 4) for v in sample.flatten()]
        return found


def _entry(
    entry: Mapping[str, Any],
    shares: Tensor,
    total: float,
    samples: _Samples,
    names: Mapping[str, str],
) -> dict[str, Any]:
    found = {
        key: entry[key]
        for key in (
            "index",
            "active_rate",
            "impact",
            "impact_signed",
            "validity_radius",
            "partners",
        )
    }
    found["impact_share"] = entry["impact"] / total
    found["tensors"] = [round(float(v), 4) for v in shares]
    found["top_samples"] = []
    for row in entry["top_samples"]:
        shown = {key: row[key] for key in ("sample", "position", "impact", "signed") if key in row}
        shown |= samples.shown(row)
        shown |= {side: _named(row[side], names) for side in ("up", "down") if side in row}
        found["top_samples"].append(shown)
    if "top_outputs" in entry:
        found["top_outputs"] = {
            side: _named(values, names) for side, values in entry["top_outputs"].items()
        }
    for key in ("sweep", "selectivity"):
        if key in entry:
            found[key] = entry[key]
    return found


def _named(outputs: Sequence[Sequence[int | float]], names: Mapping[str, str]) -> list[list[Any]]:
    return [[names.get(str(int(i)), f"output {int(i)}"), value] for i, value in outputs]


def _settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value if isinstance(value, str | int | float | bool) else str(value)
        for name in SETTINGS
        if (value := settings.get(name)) is not None
    }


def _quality(decomposition: Decomposition, record: Mapping[str, Any]) -> dict[str, Any]:
    metrics, quality = decomposition.metrics, record["quality"]
    keys = ("fvu", "l0", "dead", "heldout_rows", "fvu_row_by_row", "l0_row_by_row")
    found = {key: metrics[key] for key in keys if key in metrics}
    found.setdefault("fvu", quality["fvu"])
    found.setdefault("l0", quality["l0"])
    found.setdefault("heldout_rows", quality["n_rows"])
    rates = [entry["active_rate"] for entry in record["subnetworks"]]
    found.setdefault("dead", sum(rate == 0 for rate in rates) / len(rates))
    if "fvu" in metrics:
        found |= {"fvu_measured": quality["fvu"], "l0_measured": quality["l0"]}
    found["baselines"] = quality["baselines"]
    return found


def _notes(record: Mapping[str, Any]) -> list[str]:
    s = record["settings"]
    share = f"{s['change']:g} × the median divergence between two rows ({record['spread']:.3g})"
    notes = [
        f"Sweeps go to the δ at which the outputs of a subnetwork's top rows change by {share}.",
        "Random direction: the same norm and rank in every tensor, on the same rows.",
        "Principal directions: of the gradients of the measured rows themselves, which flatters them, or of "
        "so many other rows, far fewer than a training sees; of full rank; best codes: as many active "
        "as subnetworks, with the best coefficients, which no encoder had to find.",
        "Irrelevant rows: drawn at random, without those in which the subnetwork is active.",
    ]
    if s["rows"] == "token":
        notes.append(
            "Every position of a window is a row; a window appears once among top samples."
        )
    return notes


def _png(file: str | Path) -> str:
    path = Path(file)
    if not path.is_file():
        raise ValueError(problem("figures", "a picture that exists", str(path)))
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
