"""What is known of every subnetwork: what Python users read, `measures.json`, and what the report page shows.

One frozen record a subnetwork. Numbers have six digits; one that is not finite is None, null in the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeVar, get_args

import msgspec
from msgspec import Meta
from torch import Tensor

from subscape._checks import problem, require
from subscape._hash import sha256_of
from subscape._html import Printed, table
from subscape._io import read_tensors, write_json, write_tensors
from subscape.measures.config import MeasureConfig
from subscape.rows import RowKind
from subscape.subnetworks.decomposition import Decomposition
from subscape.subnetworks.evaluation import DEAD_RATE
from subscape.subnetworks.neighbours import Neighbours

FORMAT = "subscape-measures/2"
NAME, TENSORS = "measures.json", "measures.safetensors"
N_SHOWN = 10
"""Subnetworks in a notebook's table."""
AGAIN = "Measure again: subscape measure RUN --overwrite."

Count = Annotated[int, Meta(ge=0)]
Size = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Standing = Literal["", "first order only", "dead"]
STANDINGS = get_args(Standing)


class OutputEffect(NamedTuple):
    """What a subnetwork does to one output; a pair in the file."""

    output: Count
    """Which output."""
    effect: float
    """∂f/∂δ there; of logits ∂ log p/∂δ of the probability."""


class Partner(NamedTuple):
    """A subnetwork that is often active together with this one; a pair in the file."""

    subnetwork: Count
    """Which one."""
    interaction: float
    """How far two moves together are from the sum of each."""


@dataclass(frozen=True)
class TopOutputs:
    """The outputs that a subnetwork moves most along +δ."""

    up: tuple[OutputEffect, ...] = ()
    """Increased, largest first."""
    down: tuple[OutputEffect, ...] = ()
    """Decreased, most negative first."""


@dataclass(frozen=True)
class TopSample:
    """A row on which a subnetwork has a large impact."""

    sample: Count
    """Its place in the data."""
    position: Count | None
    """Position of a token row; None where a sample is a row."""
    impact: Size
    """Mean size of the coefficient over references."""
    signed: float
    """The same with its sign."""
    outputs: TopOutputs | None = None
    """The outputs moved most there; None where an output is not a vector."""


@dataclass(frozen=True)
class SweepMeans:
    """Mean changes of outputs over δ."""

    delta: tuple[float, ...]
    """δ of every point."""
    relevant: tuple[float | None, ...]
    """Of the top rows."""
    irrelevant: tuple[float | None, ...]
    """Of rows in which the subnetwork is not active."""
    random: tuple[float | None, ...]
    """Of the top rows along a random direction of the same norm and rank in every tensor."""

    def __post_init__(self) -> None:
        for name in ("relevant", "irrelevant", "random"):
            n, want = len(getattr(self, name)), len(self.delta)
            require(n == want, name, f"{want} numbers, one a δ", n)


@dataclass(frozen=True)
class Selectivity:
    """How well the change of outputs along one direction tells its relevant rows, over both signs of δ."""

    delta: float
    """δ at which it was taken."""
    ratio: Size | None
    """Mean change of relevant rows over that of the others; None if the others do not change."""
    auroc: Share | None
    """Chance that a relevant row changes more than another one; ties count half."""
    auroc_random: Share | None = None
    """The same along a random direction."""


@dataclass(frozen=True, repr=False)
class SubnetworkMeasures(Printed):
    """What is known of one subnetwork. Impacts are in divergence per unit of δ."""

    index: Count
    """Its number."""
    impact: Size
    """Mean over rows of the mean size of its coefficient over references."""
    impact_signed: float
    """The same with signs."""
    impact_normalised: Size | None
    """Impact over the mean length of a row gradient: 1 if all gradients lie along it."""
    active_rate: Share
    """Share of (row, reference) pairs whose coefficient reaches the threshold."""
    tensors: tuple[Size, ...]
    """Share of its squared norm in every tensor of the decomposition's layout."""
    top_samples: tuple[TopSample, ...] = ()
    """Its top rows, of distinct contexts, in the order of `MeasureConfig.rank_by`."""
    top_outputs: TopOutputs | None = None
    """Outputs moved most, averaged over its top rows; of logits those whose probability moves most."""
    delta: Size | None = None
    """δ at which the outputs of its top rows have changed by the share of the spread asked for."""
    sweep: SweepMeans | None = None
    """Up to that δ; None without it."""
    selectivity: Selectivity | None = None
    """At that δ; None without irrelevant rows too."""
    validity_radius: Size | None = None
    """Largest δ of the sweep at which gradients still predict it."""
    partners: tuple[Partner, ...] = ()
    """Subnetworks most often active together with it."""

    @property
    def side(self) -> Literal[1, -1]:
        """The sign of δ at which its top rows move most beside the others, at the ends of its sweep."""
        if self.sweep is None:
            return 1
        ratios = [
            -1.0 if mine is None or other is None else mine / max(other, 1e-30)
            for mine, other in zip(self.sweep.relevant, self.sweep.irrelevant, strict=True)
        ]
        return -1 if ratios[0] > ratios[-1] else 1

    @property
    def standing(self) -> Standing:
        """Dead where it is active in hardly any row; first order only where gradients predict none of its sweep.

        Such are left out of means and come last in lists.
        """
        if self.active_rate <= DEAD_RATE:
            return "dead"
        return "first order only" if self.validity_radius == 0 else ""

    def __repr__(self) -> str:
        auroc = self.selectivity and self.selectivity.auroc
        more = "" if auroc is None else f", AUROC {auroc:.2f}"
        rate = f"active in {self.active_rate:.1%} of rows"
        return f"SubnetworkMeasures({self.index}: {rate}, impact {self.impact:.3g}{more})"


@dataclass(frozen=True)
class Baseline:
    """How well other directions reconstruct the same gradients."""

    name: str
    """In words."""
    l0: Size
    """Directions active in a row."""
    fvu: float
    """Fraction of variance unexplained."""


@dataclass(frozen=True)
class Quality:
    """Reconstruction of the rows measured."""

    fvu: float
    """Fraction of variance unexplained."""
    l0: Size
    """Active subnetworks per row."""
    n_rows: Count
    """Rows it was taken on."""
    baselines: tuple[Baseline, ...] = ()
    """Principal directions."""


@dataclass(frozen=True)
class Names:
    """Text by number, of what the record speaks of."""

    outputs: dict[int, str]
    """Of outputs."""
    tokens: dict[int, str]
    """Of input tokens."""

    def output(self, index: int) -> str:
        """Name of an output; its number where it has none."""
        return self.outputs.get(index, f"output {index}")

    def token(self, index: int) -> str:
        """Text of a token; its number where it has none."""
        return self.tokens.get(index, str(index))


@dataclass(frozen=True)
class Record:
    """All that `measures.json` holds."""

    format: Literal["subscape-measures/2"]
    """Its format."""
    subscape_version: str
    """For information."""
    target: str
    """SHA-256 of the decomposition's target."""
    decomposition: str
    """Which decomposition these are the measures of."""
    settings: MeasureConfig
    """How much was measured."""
    divergence: str
    """Name of the divergence between outputs."""
    unit: str
    """What it is counted in; impacts are in this per unit of δ."""
    unit_of_changes: str
    """What changes of outputs are counted in: the same, unless the divergence is no distance."""
    logits: bool
    """Whether outputs are logits, of which only differences matter."""
    reference: str
    """Name of the reference rule."""
    rows: RowKind
    """What a row is."""
    n_rows: Count
    """Rows measured."""
    n_references: Count
    """References of each."""
    spread: Size | None
    """Median divergence between the outputs of two rows."""
    quality: Quality
    """Reconstruction."""
    names: Names
    """Of outputs and tokens."""
    subnetworks: tuple[SubnetworkMeasures, ...]
    """One each, in their order."""

    def __post_init__(self) -> None:
        n = len(self.subnetworks)
        for k, entry in enumerate(self.subnetworks):
            require(entry.index == k, f"subnetworks[{k}].index", f"{k}", entry.index)
            partners = [p.subnetwork for p in entry.partners]
            known = all(p < n for p in partners)
            require(known, f"subnetworks[{k}].partners", f"indices below {n}", partners)


@dataclass(frozen=True, repr=False)
class Measures(Record):
    """The measures of a decomposition: a sequence of `SubnetworkMeasures`, and what they have in common."""

    coactivation: Neighbours
    """Correlation of being active, of each with the others; NaN for a subnetwork that never or always is."""
    samples: Mapping[str, Tensor]
    """The samples that top rows point to: `index` in the data, inputs by name, `labels` if there were any."""

    def __len__(self) -> int:
        return len(self.subnetworks)

    def __getitem__(self, index: int) -> SubnetworkMeasures:
        return self.subnetworks[index]

    def __iter__(self) -> Iterator[SubnetworkMeasures]:
        return iter(self.subnetworks)

    def ranked(self) -> list[SubnetworkMeasures]:
        """By falling impact; first-order-only and dead ones last."""
        return sorted(self, key=lambda e: (STANDINGS.index(e.standing), -e.impact))

    def __repr__(self) -> str:
        return f"Measures({len(self)} subnetworks over {self.n_rows:,} rows)"

    def __str__(self) -> str:
        q = self.quality
        references = "reference" if self.n_references == 1 else "references"
        lines = [
            f"{len(self)} subnetworks over {self.n_rows:,} rows, {self.n_references} {references} each",
            f"FVU {q.fvu:.3f} at L0 {q.l0:.2f}",
            *(f"{b.name}: FVU {b.fvu:.3f} at L0 {b.l0:.2f}" for b in q.baselines),
        ]
        both = [(s.auroc, s.auroc_random) for k in self if not k.standing and (s := k.selectivity)]
        chosen = [(mine, other) for mine, other in both if mine is not None and other is not None]
        if chosen:
            mine, other = (sum(values) / len(chosen) for values in zip(*chosen, strict=True))
            lines.append(
                f"selectivity AUROC {mine:.2f}, of random directions {other:.2f} "
                f"(means over {len(chosen)} subnetworks)"
            )
        for standing in STANDINGS[1:]:
            n = sum(k.standing == standing for k in self)
            lines += [f"{n} {standing}, left out of means and last in lists"] if n else []
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        names = [
            [repr(self.names.output(i)) for i, _ in (e.top_outputs.up[:3] if e.top_outputs else ())]
            for e in self.ranked()[:N_SHOWN]
        ]
        rows = [
            (e.index, f"{e.active_rate:.1%}", f"{e.impact:.3g}", " ".join(words), e.standing)
            for e, words in zip(self.ranked(), names, strict=False)
        ]
        head = ("subnetwork", "active", f"impact, {self.unit} per δ", "raises", "")
        return table(str(self), head, rows)

    @property
    def record(self) -> Record:
        """What `measures.json` holds."""
        return Record(**{f.name: getattr(self, f.name) for f in fields(Record)})

    def verify(self, decomposition: Decomposition) -> None:
        """Refuse a decomposition that these are not the measures of, such as an earlier one of the same model."""
        require(
            self.decomposition == identity_of(decomposition) and len(self) == len(decomposition),
            "measures",
            f"those of this decomposition of {len(decomposition)} subnetworks",
            f"those of {len(self)} subnetworks of another one",
            AGAIN,
        )

    def save(self, out: str | Path) -> Path:
        """Write `measures.json` and `measures.safetensors`; those of an earlier measurement are replaced."""
        out = Path(out)
        samples = {f"samples.{name}": values for name, values in self.samples.items()}
        maps = {f"coactivation.{name}": kept for name, kept in vars(self.coactivation).items()}
        write_tensors(out / TENSORS, maps | samples)
        write_json(out / NAME, msgspec.to_builtins(self.record))
        return out

    @classmethod
    def load(cls, folder: str | Path) -> Measures:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: if nothing was measured there.
            ValueError: if a file is of another kind or damaged; says which field.
        """
        file, tensors = Path(folder) / NAME, Path(folder) / TENSORS
        if not file.is_file():
            expected, repair = f"measures in {folder}", "Measure first: subscape measure RUN."
            raise FileNotFoundError(problem("run", expected, f"no {NAME} there", repair))
        text = file.read_bytes()
        version = decoded(text, _Version, str(file)).format
        require(version == FORMAT, str(file), f"measures of format {FORMAT}", version, AGAIN)
        record, kept = decoded(text, Record, str(file)), read_tensors(tensors)
        samples = {n[8:]: values for n, values in kept.items() if n.startswith("samples.")}
        near = _coactivation(kept)
        whole = near is not None and len(near) == len(record.subnetworks) and "index" in samples
        require(whole, str(tensors), "coactivation and samples.index", f"{list(kept)}", AGAIN)
        assert near is not None
        return cls(**vars(record), coactivation=near, samples=samples)


def _coactivation(kept: Mapping[str, Tensor]) -> Neighbours | None:
    """What a file holds, in which earlier ones have the matrix of all pairs."""
    if "coactivation" in kept:
        return Neighbours.of([kept["coactivation"]])
    others, values = kept.get("coactivation.others"), kept.get("coactivation.values")
    if others is None or values is None or others.shape != values.shape:
        return None
    return Neighbours(others, values)


@dataclass(frozen=True)
class _Version:
    format: str = "none"


T = TypeVar("T")


def decoded(text: str | bytes, kind: type[T], where: str) -> T:
    """A record from JSON, checked; a wrong one is refused in one line that names the field."""
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError as error:
        raise ValueError(
            problem(where, f"measures of format {FORMAT}", f"{error}", AGAIN)
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(problem(where, "a JSON file", f"{error}", AGAIN)) from None


def identity_of(decomposition: Decomposition) -> str:
    """What measures know their decomposition by: the target, and SHA-256 of encoder and decoder."""
    sides = {"encoder": decomposition.encoder, "decoder": decomposition.decoder}
    digest = sha256_of({side: stack.weights for side, stack in sides.items()})
    return f"{decomposition.target['sha256'][:16]} {digest}"


def rounded(value: float) -> float:
    """To the digits of the record."""
    return float(f"{value:.6g}")


def number(value: float) -> float | None:
    """As the record has it: to its digits, None if it is not finite."""
    return rounded(value) if math.isfinite(value) else None
