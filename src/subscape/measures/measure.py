"""All measures of a decomposition over a data set, kept in a folder and resumed from there.

One pass gives the impact of all subnetworks (`impact`); then every subnetwork is pushed (`card`). The
result is one JSON file whose keys are described in docs/file-format.md, and the samples it points to.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

import subscape._version as version
from subscape._checks import require, with_settings
from subscape._io import append_jsonl, regular, write_text
from subscape._lock import locked
from subscape._progress import bar
from subscape._shapes import Bool
from subscape.divergences import Divergence, Values
from subscape.gradients import GradientSource
from subscape.gradients.source import Engine
from subscape.measures.card import Scene, card
from subscape.measures.config import MeasureConfig
from subscape.measures.control import random_like
from subscape.measures.impact import Impact, coefficients_over_references, draws_of, impact
from subscape.measures.kept import Namer, names_of, samples_of
from subscape.measures.quality import quality_of
from subscape.measures.record import (
    FORMAT,
    NAME,
    TENSORS,
    Measures,
    Partner,
    SubnetworkMeasures,
    identity_of,
    number,
    rounded,
)
from subscape.measures.rows import Direction, RowSet, moved_by, outputs_at
from subscape.measures.selectivity import interaction, spread
from subscape.references import Reference, n_different, name_of
from subscape.rows import RowKind, generator_of
from subscape.subnetworks.decomposition import Decomposition
from subscape.targets import Outputs, Target

IMPACT, CARDS = "impact.safetensors", "subnetworks.jsonl"
"""What a measurement goes on from."""
FILES = {
    IMPACT: b'"n_references"',
    CARDS: b"subscape-measures",
    TENSORS: b'"coactivation',
    NAME: b"subscape-measures",
    "samples.safetensors": b'"index"',
}
"""All that a measurement leaves in its folder, or left there in format 1, and how each is known to be one's."""
N_PUSHED = 8
"""Top rows of each of two subnetworks to measure their interaction on."""


def measure(
    decomposition: Decomposition,
    model: nn.Module | Target,
    data: Any,
    *,
    outputs: Outputs | None = None,
    divergence: str | Divergence | Values | None = None,
    reference: str | Reference | None = None,
    rows: RowKind | None = None,
    engine: Engine = "auto",
    labels: Tensor | None = None,
    token_names: Namer | None = None,
    output_names: Namer | None = None,
    config: MeasureConfig | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
    **settings: Any,
) -> Measures:
    """Measure what every subnetwork is for and what pushing it does; also saved in the folder.

    Args:
        decomposition: the subnetworks.
        model: the model they are of, or its `Target`.
        data: samples, best not those trained on.
        outputs: as for `Target`; to be given again where the decomposition was made with a function.
        divergence: by default that of the decomposition.
        reference: by default that of the decomposition.
        rows: by default those of the decomposition; of sequences every position is measured.
        engine: how row gradients are made.
        labels: a class per sample, to show beside it.
        token_names: text of an input token.
        output_names: name of an output.
        config: how much to measure.
        out: folder to keep what is measured in; an interrupted measurement goes on from there.
        overwrite: measure anew where something else was measured.
        progress: show progress bars.
        **settings: single settings, on top of `config`: see `MeasureConfig`.

    Raises:
        ValueError: if model or data do not go with the decomposition, or the folder is of another
            measurement.
    """
    config = with_settings(config or MeasureConfig(), settings)
    source = decomposition.source(
        model,
        data,
        divergence=divergence,
        reference=reference,
        rows=rows,
        outputs=outputs,
        engine=engine,
        seed=config.seed,
    )
    config = replace(config, n_references=n_different(source.reference, config.n_references))
    if labels is not None:
        require(len(labels) == len(source), "labels", f"{len(source)} of them", f"{len(labels)}")
    where = None if out is None else Path(out)
    with locked(where):
        if where is not None:
            _check_own(where)
            for name in FILES if overwrite else ():
                (where / name).unlink(missing_ok=True)
        found = impact(
            decomposition,
            source,
            n_references=config.n_references,
            n_top=config.n_top,
            n_rows=config.n_rows,
            batch_size=config.batch_size,
            rank_by=config.rank_by,
            state=None if where is None else where / IMPACT,
            progress=progress,
        )
        scene, idle = _scene(decomposition, source, config)
        cards = _pushed(decomposition, source, scene, found, idle, config, where, progress)
        cards = _with_partners(cards, decomposition, scene, found, config.n_partners, progress)
        result = Measures(
            format=FORMAT,
            subscape_version=version.__version__,
            target=decomposition.target["sha256"],
            decomposition=identity_of(decomposition),
            settings=config,
            divergence=source.divergence.name,
            unit=source.divergence.unit,
            unit_of_changes=source.divergence.of_changes.unit,
            logits=source.divergence.logits,
            reference=name_of(source.reference),
            rows=source.kind,
            n_rows=found.n_rows,
            n_references=found.n_references,
            spread=number(scene.size / config.change),
            quality=quality_of(decomposition, source, config),
            names=names_of(cards, source.data, token_names, output_names),
            subnetworks=tuple(cards),
            coactivation=found.coactivation,
            samples=samples_of([top.rows for top in found.top], source.data, labels),
        )
        if where is not None:
            result.save(where)
    return result


def _check_own(folder: Path) -> None:
    """Refuse a folder with a file of these names that no measurement wrote: it would be replaced."""
    for name, mark in FILES.items():
        path = folder / name
        # A damaged file of lines is known by the sums beside it.
        if path.exists() and not (name == CARDS and (folder / IMPACT).exists()):
            with regular(path).open("rb") as file:
                mine = mark in file.read(2**16)
            got, repair = f"{path}, which is none", "Choose another folder, or move it away."
            require(mine, "out", f"a folder whose {name} is a measurement's", got, repair)


def _pushed(
    decomposition: Decomposition,
    source: GradientSource,
    scene: Scene,
    found: Impact,
    idle: Bool[Tensor, "other subnetwork"],
    config: MeasureConfig,
    where: Path | None,
    progress: bool,
) -> list[SubnetworkMeasures]:
    """The measures of every subnetwork but for partners; each is kept as soon as it is there."""
    control = random_like(decomposition.directions, config.seed)
    header = {
        "format": FORMAT,
        "config": asdict(config),
        "decomposition": identity_of(decomposition),
        "source": {k: str(v) for k, v in source.identity.items()},
        "impact": float(found.mean.sum()),
    }
    path = None if where is None else where / CARDS
    cards = [] if path is None else _resumed(path, header, len(decomposition))
    n, done = len(decomposition), len(cards)
    for k in bar("sweeps", range(done, n), progress=progress, total=n, initial=done):
        direction, beside = decomposition.directions.select(k), control.select(k)
        cards.append(card(scene, k, direction, beside, found, idle[:, k]))
        if path is not None:
            append_jsonl(path, _sealed(msgspec.to_builtins(cards[-1])))
    return cards


def _scene(
    decomposition: Decomposition, source: GradientSource, config: MeasureConfig
) -> tuple[Scene, Bool[Tensor, "other subnetwork"]]:
    """What all are measured against, and for which of the other rows each is idle."""
    n, per_sample = len(source), source.draws.per_sample
    generator = generator_of(config.seed, 12)
    samples = torch.randperm(n, generator=generator)[: max(2, min(config.n_others, n))]
    n_draws = config.n_references
    selection = decomposition.dictionary.selection
    size = torch.cat([
        draws[0].at_every_place(
            selection
            .sizes(coefficients_over_references(source, draws, decomposition.encoder)[0])
            .mean(0)
            .cpu()
        )
        for draws in draws_of(source, samples, n_draws, config.batch_size, first=-n_draws)
    ]).unflatten(0, (len(samples), per_sample))
    # One position of every sample: the first and only one where a sample is a row.
    place = (
        source.draws.positions_drawn(samples, generator)
        if source.kind == "token"
        else torch.zeros_like(samples)
    )
    others = RowSet(samples, None if source.kind == "sample" else place)
    small = size[torch.arange(len(samples)), place] < decomposition.threshold.cpu()
    idle = selection.of_directions(small)
    divergence = source.divergence.of_changes
    outputs = outputs_at(source.target, source.data, others)
    scene = Scene(
        target=source.target,
        data=source.data,
        divergence=divergence,
        others=others,
        size=config.change * spread(outputs, divergence),
        n_deltas=config.n_deltas,
        n_outputs=config.n_outputs,
        logits=source.divergence.logits,
    )
    return scene, idle


def _with_partners(
    cards: list[SubnetworkMeasures],
    decomposition: Decomposition,
    scene: Scene,
    found: Impact,
    n_partners: int,
    progress: bool,
) -> list[SubnetworkMeasures]:
    """With interaction indices with the subnetworks most often active together, each at its own δ."""
    others = found.coactivation.others[:, :n_partners].tolist()

    def pushed(k: int, delta: float) -> tuple[RowSet, Direction]:
        direction = decomposition.directions.select(k).dense()
        return found.top[k].rows.select(slice(0, N_PUSHED)), moved_by(direction, delta)

    def partners(k: int) -> tuple[Partner, ...]:
        pairs = []
        for other in others[k]:
            deltas = cards[k].delta, cards[other].delta
            if deltas[0] is None or deltas[1] is None:
                continue
            (mine, move), (theirs, beside) = pushed(k, deltas[0]), pushed(other, deltas[1])
            index = interaction(scene.target, scene.data, mine.joined(theirs), move, beside)
            if math.isfinite(index):
                pairs.append(Partner(other, rounded(index)))
        return tuple(pairs)

    shown = bar("interactions", cards, progress=progress and n_partners > 0)
    return [replace(entry, partners=partners(entry.index)) for entry in shown]


def _resumed(path: Path, header: Mapping[str, Any], n: int) -> list[SubnetworkMeasures]:
    """The subnetworks of an interrupted measurement, up to the first line that is not the next one."""
    header = json.loads(json.dumps(header))
    there = path.read_bytes() if path.exists() else b""
    first, *lines = map(_unsealed, there.split(b"\n"))
    require(
        first == header or "config" not in first,
        "out",
        "a new folder, or one of the same measurement to go on with",
        f"{path} of another measurement",
        "Choose another folder, or measure anew: overwrite=True (--overwrite).",
    )
    kept = []
    for k, record in enumerate(lines[:n] if first == header else ()):
        if record.get("index") != k:
            break
        kept.append(record)
    whole = "".join(json.dumps(_sealed(record)) + "\n" for record in (header, *kept))
    if whole.encode() != there or path.is_symlink():
        write_text(path, whole)
    return msgspec.convert(kept, list[SubnetworkMeasures])


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
