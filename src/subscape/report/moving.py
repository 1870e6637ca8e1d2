"""What a shared report's sliders show: outputs of a few rows at the δ of each sweep, kept in the file."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from subscape._progress import bar
from subscape.measures.record import Measures, SubnetworkMeasures
from subscape.measures.response import among_kept, kept
from subscape.measures.rows import RowSet, moved_by, outputs_at
from subscape.subnetworks.decomposition import Decomposition
from subscape.targets import Target

N_OWN = 2
"""Top rows of a subnetwork to show, beside one of another that is seldom active together with it."""
N_OUTPUTS = 6
"""Outputs of a row: the largest, and those that move most."""
FEW = 12
"""Up to so many, all are shown."""
N_NEAREST = 3
"""Samples to name a direction among outputs by, at either end."""


def moving(
    decomposition: Decomposition,
    measures: Measures,
    model: nn.Module | Target,
    *,
    output_names: Callable[[int], str] | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Push every subnetwork over its sweep, on the samples that the measures keep."""
    target = model if isinstance(model, Target) else decomposition.target_in(model)
    here, samples = decomposition.beside(target), kept(measures)
    found: dict[int, list[dict[str, Any]]] = {}
    towards = _nearest(target, measures)
    near: dict[int, dict[str, list[int]]] = {}
    for entry in bar("sliders", [e for e in measures if e.sweep], progress=progress):
        direction, rows = here[entry.index].dense(), _rows_of(measures, entry)
        places = [(among_kept(measures, k).select(slice(i, i + 1)), k, i) for k, i in rows]
        together = places[0][0]
        for row, *_ in places[1:]:
            together = together.joined(row)
        deltas = sorted(entry.sweep.delta) if entry.sweep else []
        outputs = torch.stack([
            outputs_at(target, samples, together, moved_by(direction, d)) for d in deltas
        ])
        if towards is not None:
            near[entry.index] = towards((outputs[-1] - outputs[0])[: len(rows) - 1].mean(0))
        values = _figures(outputs, measures)
        found[entry.index] = [
            _row(k, i, values[:, n], entry.index) for n, (_, k, i) in enumerate(places)
        ]
    name = output_names or measures.names.output
    used = sorted({i for rows in found.values() for row in rows for i in row["outputs"]})
    return {"rows": found, "names": {i: name(i) for i in used}} | ({"near": near} if near else {})


def _nearest(target: Target, measures: Measures) -> Callable[[Tensor], dict[str, list[int]]] | None:
    """Where outputs are an embedding of texts, whose numbers have no names: the texts that a change points to."""
    texts = "input_ids" in measures.samples and measures.names.tokens and measures.rows == "sample"
    if not texts or measures.names.outputs or measures.logits:
        return None
    index = measures.samples["index"]
    outputs = outputs_at(target, kept(measures), RowSet(torch.arange(len(index))))
    if outputs.dim() != 2 or outputs.shape[1] <= FEW:
        return None
    centred = normalize(outputs - outputs.mean(0), dim=1)

    def nearest(change: Tensor) -> dict[str, list[int]]:
        order = index[(centred @ change).argsort(descending=True).cpu()].tolist()
        return {"toward": order[:N_NEAREST], "away": order[: -N_NEAREST - 1 : -1]}

    return nearest


def _rows_of(measures: Measures, entry: SubnetworkMeasures) -> list[tuple[int, int]]:
    """Whose top row, and which of them."""
    own = [(entry.index, i) for i in range(min(N_OWN, len(entry.top_samples)))]
    together = measures.coactivation.row(entry.index).abs().nan_to_num(torch.inf)
    order = together.argsort().tolist()
    others = [k for k in order if k != entry.index and measures[k].top_samples]
    return [*own, *((k, 0) for k in others[:1])]


def _figures(outputs: Tensor, measures: Measures) -> Tensor:
    """[δ, row, output]: probabilities where outputs are logits."""
    values = outputs.flatten(2).double().cpu()
    return values.softmax(-1) if measures.logits else values


def _row(whose: int, place: int, values: Tensor, index: int) -> dict[str, Any]:
    """One row's share, of its outputs [δ, output]."""
    n, known = values.shape[1], values.nan_to_num()
    largest = known[len(known) // 2].topk(min(N_OUTPUTS // 2, n)).indices.tolist()
    most = (known.amax(0) - known.amin(0)).topk(min(N_OUTPUTS, n)).indices.tolist()
    few = list(dict.fromkeys([*largest, *most]))[:N_OUTPUTS]
    outputs = list(range(n)) if n <= FEW else few
    lines = [[_short(v) for v in values[:, i].tolist()] for i in outputs]
    whose_row = {"subnetwork": whose, "own": whose == index, "place": place}
    return whose_row | {"outputs": outputs, "values": lines}


def _short(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None
