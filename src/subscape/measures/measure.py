"""All measures of a decomposition over a data set, kept in a folder and resumed from there.

One pass gives the impact of all subnetworks (`impact`); then every subnetwork is pushed (`card`). The
result is one JSON file whose keys are described in docs/file-format.md, and the samples it points to.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

import subscape._version as version
from subscape._checks import problem, require
from subscape._io import append_jsonl, write_text
from subscape._lock import locked
from subscape._shapes import Bool
from subscape.divergences import Divergence, Values
from subscape.gradients import GradientSource
from subscape.gradients.source import Engine
from subscape.measures.card import Scene, card
from subscape.measures.control import random_like
from subscape.measures.impact import (
    Impact,
    coefficients_over_references,
    draws_of,
    impact,
)
from subscape.measures.oracle import pca_fvu
from subscape.measures.record import (
    FORMAT,
    NAME,
    SAMPLES,
    Measures,
    card_record,
    identity_of,
    names_of,
    numbers,
    samples_of,
)
from subscape.measures.rows import RowSet, outputs_at
from subscape.measures.selectivity import interaction, spread
from subscape.references import Reference, name_of
from subscape.rows import RowKind, generator_of
from subscape.subnetworks.decomposition import Decomposition
from subscape.subnetworks.evaluation import evaluate
from subscape.targets import Target

N_QUALITY_ROWS = 1024
"""Rows for FVU and its baseline."""
IMPACT, CARDS = "impact.safetensors", "subnetworks.jsonl"
"""What a measurement goes on from."""
FILES = (IMPACT, CARDS, SAMPLES, NAME)
"""All that a measurement leaves in its folder."""
PCA_ENTRIES = 2**25
"""Entries of dense row gradients up to which principal directions are computed."""


@dataclass(frozen=True)
class MeasureConfig:
    """How much is measured."""

    n_rows: int = 20_000
    """Rows to measure the impact over, at most; every position of a window is a row."""
    n_references: int = 10
    """References drawn for every row."""
    n_top: int = 20
    """Rows of largest impact to keep of every subnetwork."""
    n_others: int = 48
    """Other rows, of which those without impact are a subnetwork's irrelevant rows."""
    n_outputs: int = 10
    """Outputs to name, most increased and most decreased each."""
    change: float = 0.1
    """How far a sweep goes: until the outputs of top rows have changed by this share of the median
    divergence between two rows."""
    n_deltas: int = 6
    """Sizes of δ in a sweep, each half of the next one."""
    n_partners: int = 3
    """Subnetworks most often active together with each, to measure the interaction with."""
    batch_size: int = 256
    """Rows whose gradients are made at once."""
    seed: int = 0
    """Draws rows, references and random directions."""

    def __post_init__(self) -> None:
        for name in (
            "n_rows",
            "n_references",
            "n_top",
            "n_others",
            "n_outputs",
            "n_deltas",
            "batch_size",
        ):
            value = getattr(self, name)
            require(
                isinstance(value, int) and value >= 1, name, "a whole number of at least 1", value
            )
        require(self.n_partners >= 0, "n_partners", "at least 0", self.n_partners)
        require(
            self.change > 0 and math.isfinite(self.change), "change", "a share above 0", self.change
        )


def measure(
    decomposition: Decomposition,
    target: Target,
    data: Any,
    *,
    config: MeasureConfig | None = None,
    divergence: str | Divergence | Values | None = None,
    reference: str | Reference | None = None,
    rows: RowKind | None = None,
    engine: Engine = "auto",
    labels: Tensor | None = None,
    token_names: Callable[[int], str] | None = None,
    output_names: Callable[[int], str] | None = None,
    folder: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Measures:
    """Measure what every subnetwork is for and what pushing it does.

    Args:
        decomposition: the subnetworks.
        target: the model and parameters they are of.
        data: samples, best not those trained on.
        config: how much to measure.
        divergence: by default that of the decomposition.
        reference: by default that of the decomposition.
        rows: by default those of the decomposition; of sequences every position is measured.
        engine: how row gradients are made.
        labels: a class per sample, to show beside it.
        token_names: text of an input token.
        output_names: name of an output.
        folder: where to keep what is measured; an interrupted measurement goes on from there.
        overwrite: measure anew where something else was measured.
        progress: show progress bars.

    Returns:
        The measures, also saved in the folder.

    Raises:
        ValueError: if model or data do not go with the decomposition, or the folder is of another
            measurement.
    """
    config = config or MeasureConfig()
    source = decomposition.source(
        target,
        data,
        divergence=divergence,
        reference=reference,
        rows=rows,
        engine=engine,
        seed=config.seed,
    )
    if labels is not None:
        require(len(labels) == len(source), "labels", f"{len(source)} of them", f"{len(labels)}")
    where = None if folder is None else Path(folder)
    with locked(where):
        if overwrite and where is not None:
            for name in FILES:
                (where / name).unlink(missing_ok=True)
        record, found = _measured(decomposition, source, config, where, progress)
        record["names"] = names_of(record, source.data, token_names, output_names)
        result = Measures(record, samples_of(found, source.data, labels))
        if where is not None:
            result.save(where)
    return result


def _measured(
    decomposition: Decomposition,
    source: GradientSource,
    config: MeasureConfig,
    folder: Path | None,
    progress: bool,
) -> tuple[dict[str, Any], Impact]:
    """The record, but for the names, and the impact; kept in the folder and gone on with from there."""
    found = impact(
        decomposition,
        source,
        n_references=config.n_references,
        n_top=config.n_top,
        n_rows=config.n_rows,
        batch_size=config.batch_size,
        state=None if folder is None else folder / IMPACT,
        progress=progress,
    )
    scene, idle = _scene(decomposition, source, config)
    control = random_like(decomposition.decoder, config.seed)
    header = {
        "config": asdict(config),
        "decomposition": identity_of(decomposition),
        "source": {k: str(v) for k, v in source.identity.items()},
        "impact": float(found.mean.sum()),
    }
    path = None if folder is None else folder / CARDS
    cards = _resumed(path, header, len(decomposition))
    for k in tqdm(range(len(decomposition)), desc="sweeps", disable=not progress):
        if k < len(cards):
            continue
        made = card(
            scene,
            k,
            decomposition.decoder.select(k),
            control.select(k),
            found.top[k],
            idle[:, k],
        )
        cards.append(card_record(made, found, k))
        if path is not None:
            append_jsonl(path, _sealed(cards[-1]))
    _add_partners(cards, decomposition, scene, found, config.n_partners, progress)
    return {
        "format": FORMAT,
        "subscape_version": version.__version__,
        "target": decomposition.target["sha256"],
        "decomposition": identity_of(decomposition),
        "settings": {
            **asdict(config),
            "divergence": source.divergence.name,
            "reference": name_of(source.reference),
            "rows": source.kind,
        },
        "unit": source.divergence.unit,
        "n_rows": found.n_rows,
        "n_references": found.n_references,
        "spread": scene.size / config.change,
        "quality": _quality(decomposition, source, config),
        "coactivation": numbers(found.coactivation()),
        "subnetworks": cards,
    }, found


def _scene(
    decomposition: Decomposition, source: GradientSource, config: MeasureConfig
) -> tuple[Scene, Bool[Tensor, "other subnetwork"]]:
    """What all are measured against, and for which of the other rows each is idle."""
    n, per_sample = len(source), source.draws.per_sample
    generator = generator_of(config.seed, 12)
    samples = torch.randperm(n, generator=generator)[: max(2, min(config.n_others, n))]
    n_draws = config.n_references
    size = torch.cat([
        coefficients_over_references(source, draws, decomposition.encoder)[0].abs().mean(0).cpu()
        for draws in draws_of(source, samples, n_draws, config.batch_size, first=-n_draws)
    ]).unflatten(0, (len(samples), per_sample))
    position = None
    place = torch.zeros(len(samples), dtype=torch.long)
    if source.kind != "sample":
        position = place = torch.randint(0, per_sample, (len(samples),), generator=generator)
    others = RowSet(samples, position)
    idle = size[torch.arange(len(samples)), place] < decomposition.threshold.cpu()
    divergence = source.divergence.of_changes
    size_of_change = config.change * spread(
        outputs_at(source.target, source.data, others), divergence
    )
    scene = Scene(
        target=source.target,
        data=source.data,
        divergence=divergence,
        others=others,
        size=size_of_change,
        n_deltas=config.n_deltas,
        n_outputs=config.n_outputs,
        centred=source.divergence.logits,
    )
    return scene, idle


def _quality(
    decomposition: Decomposition, source: GradientSource, config: MeasureConfig
) -> dict[str, Any]:
    """FVU and L0 on the rows measured, beside principal directions at the same L0."""
    n = min(N_QUALITY_ROWS, source.n_rows)
    per_sample = source.draws.per_sample
    n = max(n - n % per_sample, per_sample)
    size = max(2, min(config.batch_size, n) // per_sample) * per_sample
    size = min(size, source.n_rows)
    found = evaluate(source, decomposition.dictionary, n_rows=n, batch_size=size)
    quality = {"fvu": float(found.fvu), "l0": float(found.l0), "n_rows": found.n_rows}
    few = found.n_rows * decomposition.layout.n_parameters <= PCA_ENTRIES
    baselines = (
        _baselines(source, found.n_rows, size, len(decomposition), quality["l0"]) if few else []
    )
    return quality | {"baselines": baselines}


def _baselines(
    source: GradientSource, n_rows: int, size: int, n: int, l0: float
) -> list[dict[str, Any]]:
    """FVU of principal directions: as many as are active in a row; and as many as subnetworks, best codes."""
    n_batches, there = n_rows // size, source.n_rows // size
    same, others = (
        [source.gradients(source.rows(i, size)).flat for i in range(start, stop)]
        for start, stop in ((0, n_batches), (n_batches, min(2 * n_batches, there)))
    )
    gradients, rank = torch.cat(same), max(1, round(l0))
    kinds = [(rank, None, "", None), (n, l0, ", best codes", None)]
    if others:  # whole batches of the same epoch, hence other samples
        fit = torch.cat(others)
        kinds.append((n, l0, f" of {len(fit):,} other rows, best codes", fit))
    return [
        {
            "name": f"{many} principal direction{'s' if many > 1 else ''}{words}",
            "l0": many if active is None else active,
            "fvu": pca_fvu(gradients, many, active, fit=fit),
        }
        for many, active, words, fit in kinds
    ]


def _add_partners(
    cards: list[dict[str, Any]],
    decomposition: Decomposition,
    scene: Scene,
    found: Impact,
    n_partners: int,
    progress: bool,
) -> None:
    """Interaction indices with the subnetworks most often active together, each at its own δ."""
    together = torch.nan_to_num(found.coactivation(), nan=-1.0).fill_diagonal_(-1.0)
    n = min(n_partners, len(cards) - 1)
    for k in tqdm(range(len(cards)), desc="interactions", disable=not progress or n == 0):
        cards[k]["partners"] = []
        for other in together[k].topk(n).indices.tolist() if n else []:
            sizes = [cards[i]["delta"] for i in (k, other)]
            if None in sizes:
                continue
            rows = (
                found
                .top[k]
                .rows.select(slice(0, 8))
                .joined(found.top[other].rows.select(slice(0, 8)))
            )
            moves = [
                {name: size * v for name, v in decomposition.decoder.select(i).dense().items()}
                for i, size in zip((k, other), sizes, strict=True)
            ]
            index = interaction(scene.target, scene.data, rows, *moves)
            if math.isfinite(index):
                cards[k]["partners"].append([other, index])


def _resumed(path: Path | None, header: Mapping[str, Any], n: int) -> list[dict[str, Any]]:
    """The cards of an interrupted measurement, cut off at the first line that is not the next card."""
    if path is None:
        return []
    header = json.loads(json.dumps(header))
    there = path.read_bytes() if path.exists() else b""
    first, *lines = map(_unsealed, there.split(b"\n"))
    if first != header and "config" in first:
        raise ValueError(
            problem(
                "folder",
                "a new folder, or one of the same measurement to go on with",
                f"{path} of another measurement",
                "Choose another folder, or measure anew: overwrite=True (--overwrite).",
            )
        )
    cards = []
    for k, record in enumerate(lines[:n] if first == header else ()):
        if record.get("index") != k:
            break
        cards.append(record)
    whole = "".join(json.dumps(_sealed(record)) + "\n" for record in (header, *cards))
    if whole.encode() != there:
        write_text(path, whole)
    return cards


def _sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with a checksum, to know later that no line was cut short or changed."""
    return {**record, "crc32": zlib.crc32(json.dumps(record).encode())}


def _unsealed(line: bytes) -> dict[str, Any]:
    """The record in a line; empty if its checksum is not right."""
    try:
        sealed = json.loads(line)
        record = {key: value for key, value in sealed.items() if key != "crc32"}
    except (ValueError, AttributeError, RecursionError):  # no JSON, or no object
        return {}
    return record if sealed == _sealed(record) else {}
