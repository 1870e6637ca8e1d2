"""The record of all measures: `measures.json` and the samples it points to. Its keys: docs/file-format.md."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from subscape._checks import problem
from subscape._hash import sha256_of
from subscape._io import read_json, read_tensors, write_json, write_tensors
from subscape._shapes import Float
from subscape.data import Samples, take
from subscape.measures.card import Card, mean_of
from subscape.measures.impact import Impact
from subscape.measures.output_effects import TopOutputs
from subscape.subnetworks.decomposition import Decomposition

FORMAT = "subscape-measures/1"
NAME = "measures.json"
SAMPLES = "samples.safetensors"


@dataclass(frozen=True)
class Measures:
    """The measures of a decomposition."""

    record: Mapping[str, Any]
    """All numbers, as in `measures.json`."""
    samples: Mapping[str, Tensor]
    """The samples that top rows point to: `index` in the data, and the inputs under their names."""

    def __str__(self) -> str:
        r = self.record
        chosen = [e["selectivity"] for e in r["subnetworks"] if e.get("selectivity")]
        chosen = [s for s in chosen if None not in (s["auroc"], s["auroc_random"])]
        lines = [
            f"{len(r['subnetworks'])} subnetworks over {r['n_rows']:,} rows, "
            f"{r['n_references']} references each",
            f"FVU {r['quality']['fvu']:.3f} at L0 {r['quality']['l0']:.2f}",
        ]
        lines += [
            f"{b['name']}: FVU {b['fvu']:.3f} at L0 {b['l0']:.2f}"
            for b in r["quality"]["baselines"]
        ]
        if chosen:
            means = [sum(s[key] for s in chosen) / len(chosen) for key in ("auroc", "auroc_random")]
            lines.append(
                f"selectivity AUROC {means[0]:.2f}, of random directions {means[1]:.2f} "
                f"(means over {len(chosen)} subnetworks)"
            )
        return "\n".join(lines)

    def verify(self, decomposition: Decomposition) -> None:
        """Refuse a decomposition that these are not the measures of.

        Args:
            decomposition: the decomposition at hand.

        Raises:
            ValueError: if they are of another one, such as an earlier one of the same model.
        """
        if self.record.get("decomposition") != identity_of(decomposition):
            raise ValueError(
                problem(
                    "measures",
                    f"those of this decomposition of {len(decomposition)} subnetworks",
                    f"those of {len(self.record['subnetworks'])} subnetworks of another one",
                    "Measure this one: subscape measure RUN --overwrite.",
                )
            )

    def save(self, folder: str | Path) -> Path:
        """Write `measures.json` and `samples.safetensors`.

        Args:
            folder: where to; files of an earlier measurement are replaced.

        Returns:
            The folder.
        """
        folder = Path(folder)
        write_tensors(folder / SAMPLES, self.samples)
        write_json(folder / NAME, dict(self.record))
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Measures:
        """Read what `save` wrote.

        Args:
            folder: the folder.

        Returns:
            The measures.

        Raises:
            FileNotFoundError: if nothing was measured there.
            ValueError: if the file is of another kind.
        """
        folder = Path(folder)
        if not (folder / NAME).is_file():
            raise FileNotFoundError(
                problem(
                    "run",
                    f"measures in {folder}",
                    f"no {NAME} there",
                    "Measure first: subscape measure RUN.",
                )
            )
        record = read_json(folder / NAME)
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise ValueError(
                problem(str(folder / NAME), f"measures of format {FORMAT}", "something else")
            )
        return cls(record, read_tensors(folder / SAMPLES))


def identity_of(decomposition: Decomposition) -> str:
    """What measures know their decomposition by: the target, and SHA-256 of encoder and decoder."""
    sides = {"encoder": decomposition.encoder, "decoder": decomposition.decoder}
    digest = sha256_of({side: stack.weights for side, stack in sides.items()})
    return f"{decomposition.target['sha256'][:16]} {digest}"


def card_record(made: Card, found: Impact, k: int) -> dict[str, Any]:
    """The entry of one subnetwork.

    Args:
        made: its measures.
        found: the impact of all.
        k: its number.

    Returns:
        What JSON can hold; null where a number is not finite.
    """
    top = found.top[k]
    record: dict[str, Any] = {
        "index": k,
        "impact": float(found.mean[k]),
        "impact_signed": float(found.signed[k]),
        "impact_normalised": _number(float(found.normalised[k])),
        "active_rate": float(found.active_rate[k]),
        "delta": _number(made.delta),
        "validity_radius": _number(made.validity_radius),
        "top_samples": [],
    }
    for i in range(len(top.rows)):
        row: dict[str, Any] = {
            "sample": int(top.rows.samples[i]),
            "impact": float(top.impact[i]),
            "signed": float(top.signed[i]),
        }
        if top.rows.position is not None:
            row["position"] = int(top.rows.position[i])
        if made.by_row:
            row["up"], row["down"] = map(_outputs, made.by_row[i])
        record["top_samples"].append(row)
    if made.outputs is not None:
        record["top_outputs"] = dict(zip(("up", "down"), map(_outputs, made.outputs), strict=True))
    if made.found is not None and made.control is not None:
        record["sweep"] = {
            "delta": list(made.found.deltas),
            "relevant": mean_of(made.found.change, made.relevant),
            "irrelevant": mean_of(made.found.change, ~made.relevant),
            "random": mean_of(made.control.change, made.relevant),
        }
    if made.selectivity is not None and made.control_selectivity is not None:
        record["selectivity"] = {
            "delta": made.selectivity.delta,
            "ratio": _number(made.selectivity.ratio),
            "auroc": _number(made.selectivity.auroc),
            "auroc_random": _number(made.control_selectivity.auroc),
        }
    return record


def names_of(
    record: Mapping[str, Any],
    data: Samples,
    token_names: Callable[[int], str] | None,
    output_names: Callable[[int], str] | None,
) -> dict[str, dict[str, str]]:
    """Names of the outputs and the tokens that the record speaks of."""
    outputs: set[int] = set()
    tokens: set[int] = set()
    ids = token_ids(data)
    for entry in record["subnetworks"]:
        places = [entry.get("top_outputs", {}), *entry["top_samples"]]
        outputs |= {i for p in places for side in ("up", "down") for i, _ in p.get(side, [])}
        if ids is not None:
            tokens |= {int(i) for row in entry["top_samples"] for i in ids[row["sample"]].tolist()}
    return {
        "outputs": {str(i): output_names(i) for i in sorted(outputs)} if output_names else {},
        "tokens": {str(i): token_names(i) for i in sorted(tokens)} if token_names else {},
    }


def token_ids(data: Samples) -> Tensor | None:
    """The token ids of samples that are sequences of them, [sample, position]; None of others."""
    ids = data if isinstance(data, Tensor) else data.get("input_ids")
    return ids if ids is not None and not ids.is_floating_point() and ids.dim() == 2 else None


def samples_of(found: Impact, data: Samples, labels: Tensor | None) -> dict[str, Tensor]:
    """The samples that top rows point to: `index` in the data, inputs by name, and `labels` if given."""
    index = torch.cat([t.rows.samples for t in found.top]).unique()
    inputs = take(data, index)
    by_name = {"inputs": inputs} if isinstance(inputs, Tensor) else inputs
    # Labels of the data may be something else, such as the next token of every token.
    kept = {name: values for name, values in by_name.items() if name != "labels"}
    if labels is not None:
        kept["labels"] = torch.as_tensor(labels)[index]
    return {**kept, "index": index}


def _outputs(found: TopOutputs) -> list[list[int | float]]:
    return [[int(i), float(v)] for i, v in zip(found.index, found.value, strict=True)]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def numbers(matrix: Float[Tensor, "row column"]) -> list[list[float | None]]:
    """A matrix as JSON takes it, to four digits; null where an entry is not finite."""
    return [[_number(round(v, 4)) for v in row] for row in matrix.tolist()]
