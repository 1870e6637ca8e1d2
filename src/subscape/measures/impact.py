"""Impact: how strongly every subnetwork matters at every row, in one pass over a data set.

I(x_i, v_k) = mean over references y of |⟨V_in_k, ∇_W D(f(x_i), y)⟩| (arXiv 2504.00194, sec. 3.3), in
divergence per unit of δ. What is kept of a pass does not grow with the data: sums per subnetwork, and the
rows of largest impact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from subscape._checks import require
from subscape._hash import sha256_of
from subscape._io import read_metadata, read_tensors, write_tensors
from subscape._progress import bar
from subscape._shapes import Bool, Float, Int
from subscape.data import take
from subscape.gradients import GradientSource
from subscape.lowrank import Stack
from subscape.measures.coactivation import LISTED, blocks_of_coactivation, listed
from subscape.measures.config import RankBy
from subscape.measures.contexts import context_keys
from subscape.measures.rows import RowSet
from subscape.rows import Rows, permutation
from subscape.subnetworks.decomposition import Decomposition
from subscape.subnetworks.neighbours import Neighbours

N_REFERENCES = 10
N_TOP = 20
SAVE_EVERY = 20
"""Batches between two savings of what was measured."""


@dataclass(frozen=True)
class Sums:
    """What a pass has added up so far; every field is a tensor, so it saves and resumes as it is."""

    n_batches: Int[Tensor, ""]
    """Batches seen."""
    n_rows: Int[Tensor, ""]
    """Rows seen."""
    size: Float[Tensor, " subnetwork"]
    """Σ_i I(x_i, v_k)."""
    signed: Float[Tensor, " subnetwork"]
    """Σ_i of the mean coefficient over references, with its sign."""
    active: Float[Tensor, " subnetwork"]
    """(Row, reference) pairs with a coefficient at or above the threshold: counts, hence exact."""
    listed: Int[Tensor, " entry"]
    """Who is active in which pair; see `coactivation`."""
    n_listed: Int[Tensor, ""]
    """Pairs that are listed."""
    norm: Float[Tensor, ""]
    """Σ_i of the mean ‖g_i‖ over references."""
    top_value: Float[Tensor, "subnetwork top"]
    """What the top rows are ranked by, falling; 0 where there are fewer rows with any impact."""
    top_key: Int[Tensor, "subnetwork top"]
    """Their contexts, no two alike."""
    top_impact: Float[Tensor, "subnetwork top"]
    """The impact at those rows."""
    top_signed: Float[Tensor, "subnetwork top"]
    """The mean coefficient with its sign at those rows."""
    top_sample: Int[Tensor, "subnetwork top"]
    """Their samples."""
    top_position: Int[Tensor, "subnetwork top"]
    """Their positions; 0 where a sample is a row."""


@dataclass(frozen=True)
class Impact:
    """The impact of every subnetwork over a data set."""

    mean: Float[Tensor, " subnetwork"]
    """Mean of I(x, v_k) over rows: divergence per unit of δ."""
    signed: Float[Tensor, " subnetwork"]
    """Mean coefficient with its sign."""
    normalised: Float[Tensor, " subnetwork"]
    """`mean` over the mean length of a row gradient; 1 if all gradients lie along the subnetwork."""
    active_rate: Float[Tensor, " subnetwork"]
    """Share of (row, reference) pairs whose coefficient reaches the threshold."""
    coactivation: Neighbours
    """Correlation of being active over the pairs listed; NaN with a subnetwork that is never or always active."""
    top: tuple[TopRows, ...]
    """The top rows of every subnetwork, of distinct contexts; none without impact."""
    n_rows: int
    """Rows measured."""
    n_references: int
    """References per row."""


@dataclass(frozen=True)
class TopRows:
    """The top rows of one subnetwork, in falling order."""

    rows: RowSet
    """Which rows."""
    impact: Float[Tensor, " row"]
    """I(x, v_k)."""
    signed: Float[Tensor, " row"]
    """The mean coefficient over references, with its sign."""


def draws_of(
    source: GradientSource, samples: Int[Tensor, " sample"], n: int, batch_size: int, *, first: int
) -> list[list[Rows]]:
    """Batches of rows of given samples, each under `n` draws of partners, from number `first` on."""
    draws = [source.rows_of(samples, draw=draw) for draw in range(first, first + n)]
    by_draw = [rows.micro_batches(batch_size) for rows in draws]
    return [list(of_batch) for of_batch in zip(*by_draw, strict=True)]


def coefficients_over_references(
    source: GradientSource, draws: list[Rows], stack: Stack
) -> tuple[Float[Tensor, "reference row subnetwork"], Float[Tensor, "reference row"]]:
    """⟨V_k, g_i⟩ and ‖g_i‖ of rows under several draws of partners, from one forward pass."""
    coefficients, norms = [], []
    with torch.no_grad():
        for gradients in source.gradients_over(draws):
            coefficients.append(gradients.inner(stack))
            norms.append(gradients.squared_norm().sqrt())
    return torch.stack(coefficients), torch.stack(norms)


def impact(
    decomposition: Decomposition,
    source: GradientSource,
    *,
    n_references: int = N_REFERENCES,
    n_top: int = N_TOP,
    n_rows: int | None = None,
    batch_size: int = 256,
    repeat_samples: bool = False,
    rank_by: RankBy = "auto",
    state: str | Path | None = None,
    progress: bool = True,
) -> Impact:
    """Measure the impact of all subnetworks in one pass over the data.

    Args:
        decomposition: the subnetworks.
        source: the data to measure on, with `sample` or `token` rows.
        n_references: references drawn for every row.
        n_top: top rows to keep per subnetwork; of rows that have seen the same only one is.
        n_rows: rows to look at, rounded up to whole samples; by default all.
        batch_size: rows made at once.
        repeat_samples: let a sequence appear among the top rows with several positions.
        rank_by: `impact`; `share`, the impact over the length of the row's gradient, so that the few rows of
            long gradients do not lead every list; `auto` is share where a sample is a row.
        state: file to keep what was measured in; a pass that was interrupted goes on from there.
        progress: show a progress bar.

    Raises:
        ValueError: if the source is another target's, draws positions, or `state` is of another pass.
    """
    require(n_references >= 1, "n_references", "at least 1", repr(n_references))
    require(n_top >= 1, "n_top", "at least 1", repr(n_top))
    require(
        source.kind != "sampled-token",
        "source",
        "rows='sample' or 'token', which are the same in every draw",
        "rows='sampled-token'",
        "Use rows='token': every position of the windows is measured.",
    )
    by_share = rank_by == "share" or (rank_by == "auto" and source.kind == "sample")
    decomposition.verify(source.target)
    per_sample = source.draws.per_sample
    n_samples = len(source)
    if n_rows is not None:
        n_samples = min(n_samples, -(-n_rows // per_sample))
    n = min(n_samples * per_sample, source.n_rows)
    require(n >= 2, "data", "at least 2 rows", f"{n}")
    order = permutation(len(source), source.seed, 0)[:n_samples]
    batches = draws_of(source, order, n_references, batch_size, first=0)
    sums = _nothing(len(decomposition), n_top)
    identity = {
        "decomposition": sha256_of({
            "encoder": decomposition.encoder.weights,
            "threshold": decomposition.threshold,
        }),
        **{key: str(value) for key, value in source.identity.items()},
        "n_references": str(n_references),
        "n_top": str(n_top),
        "samples": str(n_samples),
        "batch_size": str(batch_size),
        "repeat_samples": str(repeat_samples),
        "rank_by": "share" if by_share else "impact",
    }
    if state is not None:
        sums = _resumed(Path(state), sums, identity)
    done = saved = int(sums.n_batches)
    rest = bar("impact", batches[done:], progress=progress, total=len(batches), initial=done)
    try:
        for number, draws in enumerate(rest, start=done + 1):
            found, norms = coefficients_over_references(source, draws, decomposition.encoder)
            active = decomposition.dictionary.selection.alone(found.flatten(0, 1))
            seen = take(source.data, draws[0].sample_of_each)
            keys = context_keys(seen, None if source.kind == "sample" else per_sample)
            sums = _added(
                sums, found, active, norms, draws[0], keys, repeat=repeat_samples, share=by_share
            )
            if state is not None and number % SAVE_EVERY == 0:
                write_tensors(state, vars(sums), identity)
                saved = number
    finally:
        # Also when interrupted: what was measured is kept.
        if state is not None and int(sums.n_batches) > saved:
            write_tensors(state, vars(sums), identity)
    return _finished(sums, n_references, source.kind != "sample")


def _nothing(n: int, n_top: int) -> Sums:
    each, top = torch.zeros(n, dtype=torch.float64), torch.zeros(n, n_top, dtype=torch.float64)
    none, count = each.new_zeros(()), torch.zeros((), dtype=torch.long)
    sums = {"size": each, "signed": each, "active": each, "norm": none}
    sums |= {"listed": count.new_zeros(0), "n_listed": count}
    tops = {
        "top_value": top,
        "top_key": top.long(),
        "top_impact": top,
        "top_signed": top,
        "top_sample": top.long(),
        "top_position": top.long(),
    }
    return Sums(n_batches=count, n_rows=count, **sums, **tops)


def _added(
    sums: Sums,
    coefficients: Float[Tensor, "reference row subnetwork"],
    active: Bool[Tensor, "pair subnetwork"],
    norms: Float[Tensor, "reference row"],
    rows: Rows,
    keys: Int[Tensor, " place"],
    *,
    repeat: bool,
    share: bool,
) -> Sums:
    """The sums with one more batch, whose rows are the positions of one sample after the other."""
    coefficients, per_sample = coefficients.cpu(), rows.per_sample
    size = coefficients.abs().mean(0).double()
    signed = coefficients.mean(0).double()
    active, norm = active.cpu(), norms.cpu().double().mean(0)
    n_rows, total, total_signed = len(size), size.sum(0), signed.sum(0)
    value = size / norm[:, None].clamp_min(1e-300) if share else size
    value, size, signed = (rows.at_every_place(each) for each in (value, size, signed))
    value, place = _largest(value, keys, 1 if repeat else per_sample, sums.top_value.shape[1])
    merged = {
        "top_value": (sums.top_value, value),
        "top_key": (sums.top_key, keys[place]),
        "top_impact": (sums.top_impact, size.T.gather(1, place)),
        "top_signed": (sums.top_signed, signed.T.gather(1, place)),
        "top_sample": (sums.top_sample, rows.sample_of_each[place // per_sample]),
        "top_position": (sums.top_position, place % per_sample),
    }
    both = {name: torch.cat(pair, 1) for name, pair in merged.items()}
    few = len(sums.listed) < LISTED
    # Of equal rows those seen first stay, however the pass is cut.
    both["top_value"], keep = _distinct(both["top_value"], both["top_key"], sums.top_value.shape[1])
    return replace(
        sums,
        n_batches=sums.n_batches + 1,
        n_rows=sums.n_rows + n_rows,
        size=sums.size + total,
        signed=sums.signed + total_signed,
        active=sums.active + active.sum(0).double(),
        listed=listed(active, sums.listed, int(sums.n_listed)) if few else sums.listed,
        n_listed=sums.n_listed + len(active) * few,
        norm=sums.norm + norm.sum(),
        **{
            name: values if name == "top_value" else values.gather(1, keep)
            for name, values in both.items()
        },
    )


def _largest(
    value: Float[Tensor, "row subnetwork"], keys: Int[Tensor, " row"], per_sample: int, n_top: int
) -> tuple[Float[Tensor, "subnetwork some"], Int[Tensor, "subnetwork some"]]:
    """The largest values of every subnetwork, one per sample, of distinct contexts; and their rows."""
    best, position = value.T.unflatten(1, (-1, per_sample)).max(2)
    place = torch.arange(best.shape[1]) * per_sample + position
    top, kept = _distinct(best, keys[place], n_top)
    return top, place.gather(1, kept)


def _distinct(
    values: Float[Tensor, "subnetwork row"], keys: Int[Tensor, "subnetwork row"], n: int
) -> tuple[Float[Tensor, "subnetwork some"], Int[Tensor, "subnetwork some"]]:
    """The n largest values of distinct keys and their places; of equal ones the first. Copies come last, as 0."""
    values, places = torch.sort(values, dim=1, descending=True, stable=True)
    grouped, order = torch.sort(keys.gather(1, places), dim=1, stable=True)
    again = torch.nn.functional.pad(grouped[:, 1:] == grouped[:, :-1], (1, 0))
    copies = torch.zeros_like(again).scatter(1, order, again)
    kept = torch.sort(copies, dim=1, stable=True).indices[:, :n]
    return values.masked_fill(copies, 0).gather(1, kept), places.gather(1, kept)


def _finished(sums: Sums, n_references: int, token_rows: bool) -> Impact:
    n, n_subnetworks = sums.n_rows.double(), len(sums.size)
    top = []
    for value, size, signed, sample, position in zip(
        sums.top_value,
        sums.top_impact,
        sums.top_signed,
        sums.top_sample,
        sums.top_position,
        strict=True,
    ):
        real = value > 0
        rows = RowSet(sample[real], position[real] if token_rows else None)
        top.append(TopRows(rows, size[real], signed[real]))
    return Impact(
        mean=sums.size / n,
        signed=sums.signed / n,
        normalised=sums.size / sums.norm,
        active_rate=sums.active / (n * n_references),
        coactivation=Neighbours.of(
            blocks_of_coactivation(sums.listed, int(sums.n_listed), n_subnetworks)
        ),
        top=tuple(top),
        n_rows=int(sums.n_rows),
        n_references=n_references,
    )


def _resumed(path: Path, fresh: Sums, identity: Mapping[str, str]) -> Sums:
    if not path.exists():
        return fresh
    found = read_metadata(path)
    for key, value in identity.items():
        require(
            found.get(key) == value,
            "state",
            f"a file of the same measurement: {key} {value:.80}",
            f"{path} with {key} {found.get(key, 'unknown'):.80}",
            "Give the same settings, model and data as before, choose another folder, or measure anew: "
            "overwrite=True (--overwrite).",
        )
    return Sums(**read_tensors(path))
