"""A source of row gradients: a target, data, a divergence and a reference rule.

Engines are planned once for a target and a kind of row; `over` takes them along to other data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor

from subscape._checks import require
from subscape._hash import sha256_of
from subscape._html import Printed
from subscape._ranks import ALONE, Ranks
from subscape._shapes import Float, Int
from subscape.data import Samples, as_samples, form_of, n_samples, take, to_device
from subscape.divergences import Divergence, Values, as_divergence, output_gradient, shape_or_type
from subscape.gradients.engines import jacobian, row_outputs
from subscape.gradients.geometry import Geometry, RowWeight, check_row_weight, kronecker
from subscape.gradients.memory import MemoryUse
from subscape.gradients.micro_batches import MicroBatches, kept_if_small
from subscape.gradients.passes import JacobianPass, LoopPass, Pass
from subscape.gradients.plan import Plan, choose, samples_to_try
from subscape.gradients.prefix import Kept, PrefixChanged, find_prefix
from subscape.gradients.row_gradients import RowGradients, RowProducts, check_finite, of_tensors
from subscape.gradients.shared_rows import SharedRows
from subscape.gradients.survey import survey
from subscape.references import MEAN, FixedOutput, Reference, as_reference, name_of
from subscape.rows import RowDraws, RowKind, Rows, permutation
from subscape.targets import Target, check_deterministic_modules

_T = TypeVar("_T")
EngineName = Literal["auto", "jacobian", "rule", "replay", "vmap", "loop"]
Engine = EngineName | Mapping[str, str]

JACOBIAN_BUDGET = 4 * 2**20
"""Bytes of cached output Jacobian up to which `auto` takes it: a Jacobian row is read for every output, so
beyond the smallest toys the other engines are faster on a large block of rows (benchmarks/engines.py)."""
MetricName = Literal["euclidean", "kronecker"]
METRIC_ROWS = 4096
"""Rows from which a metric is estimated at most."""
METRIC_BATCH = 256
"""Rows of a batch for it."""
MEAN_SAMPLES = 2048
"""Samples over which a `mean` reference is estimated at most."""
MEAN_BATCH = 32
"""Samples of a forward pass for it."""


class GradientSource(Printed):
    """Row gradients of a target over a data set.

    Args:
        target: the model and its parameters.
        data: anything `subscape.data.as_samples` takes.
        divergence: a name of `subscape.divergences.DIVERGENCES`, a `Divergence` or a function.
        reference: `mean`, a name of `subscape.references.REFERENCES`, or a callable.
        rows: `sample` (one row per sample), `sampled-token` (one row per sequence, at a position drawn anew
            every time) or `token` (every position of a sequence is a row).
        engine: `auto`; `jacobian` (outputs differentiated once, for the smallest targets); one of `rule`,
            `replay`, `vmap`, `loop` for all tensors, or a mapping from globs over parameters to these.
        seed: draws the order of samples, positions and partners.
        row_weight: how much a row counts; see `geometry.RowWeight`.
        metric: `euclidean`, or `kronecker`, estimated from the data; see `lowrank.metric`.
        metric_power: p of F^(−p); ½ whitens.
        metric_damping: λ, as a share of the mean eigenvalue.
        geometry: row weight and metric of an earlier source, instead of these.
        background: rows whose second moments the metric is made of, instead of those of the data.
        like: a source whose engines, divergence, reference and rows to take over; see `over`.
        ranks: processes that make the rows together, and then all make the same calls.

    Raises:
        ValueError: if the data do not fit the rows asked for.
    """

    def __init__(
        self,
        target: Target,
        data: Any,
        *,
        divergence: str | Divergence | Values = "mse",
        reference: str | Reference = "another-row",
        rows: RowKind = "sample",
        engine: Engine = "auto",
        seed: int = 0,
        row_weight: RowWeight = "norm",
        metric: MetricName = "euclidean",
        metric_power: float = 0.5,
        metric_damping: float = 0.01,
        geometry: Geometry | None = None,
        background: GradientSource | None = None,
        like: GradientSource | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        check_row_weight(row_weight)
        check_deterministic_modules(target.model)  # once more: it may have been trained meanwhile
        self.target = target
        self.data: Samples = as_samples(data)
        self.divergence = as_divergence(divergence)
        self.kind: RowKind = rows
        self.seed = seed
        self.ranks = ranks
        self._asked: Engine = engine
        self._outputs: Tensor | None = None
        self._jacobian: Tensor | None = None
        self.kept: Kept | None = None
        """What is computed in front of the chosen parameters, of every sample; see `keep_prefix`."""
        self.plan: Plan | None = None
        """The choice of engines with the reasons for it; None for `jacobian` and for the loop."""
        if like is not None and form_of(like.data) == form_of(self.data):
            self._output_shape, self.plan = like._output_shape, like.plan
            self.engine: str = like.engine if self.plan or like.engine == "loop" else self._choose()
        else:
            self.engine = self._choose()
        require(
            not self.divergence.logits or self._output_shape[-1:] != (1,),
            "divergence",
            "two logits or more for kl",
            "one, of which the probability is 1 whatever it is",
            "Take divergence='mse', or let outputs give the logits of both classes.",
        )
        positions = self._output_shape[0] if rows != "sample" else 1
        mask = None if rows == "sample" else _mask(self.data, positions)
        self.draws = RowDraws(len(self), rows, positions, seed, mask)
        """Which rows a step has."""
        self.reference = self._mean_reference() if reference == MEAN else as_reference(reference)
        self.geometry = geometry or self._geometry(
            row_weight, metric, power=metric_power, damping=metric_damping, background=background
        )
        """How rows are weighted and measured."""
        self.estimated: dict[str, str] = {}
        """How what was estimated from the data was; its last digits depend on processes and threads."""
        if reference == MEAN:
            self.estimated["reference"] = MEAN
        if geometry is None:
            metric_settings = f", power {metric_power:g}, damping {metric_damping:g}"
            self.estimated["geometry"] = metric + metric_settings * (metric != "euclidean")

    def over(
        self, data: Any, *, seed: int, reference: str | Reference | None = None
    ) -> GradientSource:
        """Row gradients of the same kind over other data, with the engines that were planned here."""
        return GradientSource(
            self.target,
            data,
            divergence=self.divergence,
            reference=self.reference if reference is None or reference == MEAN else reference,
            rows=self.kind,
            engine=self._asked,
            seed=seed,
            geometry=self.geometry,
            like=self,
            ranks=self.ranks,
        )

    @property
    def engines(self) -> dict[str, str]:
        """What makes the row gradients of every tensor, by parameter name."""
        if self.plan is not None:
            return self.plan.shown()
        return dict.fromkeys(self.target.names, self.engine)

    def __repr__(self) -> str:
        kind = f"{self.n_rows:,} {self.kind} rows"
        return f"GradientSource({kind} of {self.target}, {self.divergence.name})"

    def summary(self) -> str:
        """The target's tensors with the engine of each."""
        return self.target.summary(self.engines)

    def __len__(self) -> int:
        return n_samples(self.data)

    @property
    def n_rows(self) -> int:
        """Rows in one pass over the data."""
        return self.draws.n_rows

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every target tensor."""
        return self.target.shapes

    @property
    def memory(self) -> MemoryUse | None:
        """What a row takes in memory; None where rows are not cut."""
        return None if self.plan is None else self.plan.memory

    @cached_property
    def _data_hash(self) -> str:
        return sha256_of({"data": self.data} if isinstance(self.data, Tensor) else self.data)

    @property
    def identity(self) -> dict[str, Any]:
        """All that its rows and gradients depend on: settings, and SHA-256 of target and data."""
        return {
            "target": f"SHA-256 {self.target.fingerprint()['sha256'][:16]}",
            "outputs": self.target.outputs_name,
            "data": self._data_hash,
            "divergence": self.divergence.name,
            "reference": name_of(self.reference),
            "rows": self.kind,
            "engine": self.engines,
            "source_seed": self.seed,
            "row_weight": self.geometry.row_weight,
            "geometry": sha256_of(self.geometry.state()),
        }

    def rows(self, step: int, size: int, *, rank: int = 0, n_ranks: int = 1) -> Rows:
        """The rows of a step; see `RowDraws.at_step`."""
        return self.draws.at_step(step, size, rank=rank, n_ranks=n_ranks)

    def rows_of(self, samples: Int[Tensor, " sample"], *, draw: int = 0) -> Rows:
        """Rows of given samples; see `RowDraws.of_samples`."""
        return self.draws.of_samples(samples, draw=draw)

    def gradients(self, rows: Rows, *, micro_batch_size: int | None = None) -> RowGradients:
        """∇_W D of rows, made `micro_batch_size` at a time (whole groups; None: all), which changes nothing.

        Raises:
            ValueError: if a gradient is not finite, or the divergence is not one value per row.
        """
        parts = rows.micro_batches(micro_batch_size)
        if len(parts) == 1:
            return next(self.gradients_over([rows]))
        makers = [lambda part=part: next(self.gradients_over([part])) for part in parts]
        return MicroBatches(makers, [len(part) for part in parts])

    def shared(self, rows: Rows, *, micro_batch_size: int | None = None) -> RowProducts:
        """The same for all processes, each of which makes its own rows, `micro_batch_size` of them at a time."""
        if self.ranks.size == 1:
            return self.gradients(rows, micro_batch_size=micro_batch_size)
        parts = [rows.share(rank, self.ranks.size) for rank in range(self.ranks.size)]
        mine = parts[self.ranks.rank]
        own = self.gradients(mine, micro_batch_size=micro_batch_size) if len(mine) else None
        return SharedRows(own, [len(part) for part in parts], self.ranks, self.target.like)

    def gradients_over(self, draws: Sequence[Rows]) -> Iterator[RowGradients]:
        """Row gradients of rows that differ in their partners only, all from one forward pass of the model."""
        one = self._run(draws[0])
        outputs = one.outputs.to(self.target.like.dtype)
        for number, rows in enumerate(draws):
            e = output_gradient(self.divergence, outputs, self._reference_of(outputs, rows))
            e = self.geometry.of_outputs(e)
            gradients = one.gradients(e, again=number + 1 < len(draws))
            # One sum is enough to see a NaN or an infinity; only then look for where it is.
            if not torch.isfinite(gradients.sum()):
                check_finite(gradients.dense())
            yield self.geometry.of_rows(gradients)

    def keep_prefix(self, budget: int) -> None:
        """Compute what lies in front of the chosen parameters once for all samples, where it pays and fits.

        Steps then run the rest of the model only, and give the same but for rounding.

        Args:
            budget: bytes that it may take.
        """
        # Engines that take the model whole call it for single samples under vmap.
        if self.plan is None or {c.engine for c in self.plan.choices.values()} & {"vmap", "loop"}:
            return
        inputs = to_device(samples_to_try(self.data), self.target.like.device)
        prefix = find_prefix(self.target, inputs)
        if prefix is not None and prefix.bytes_per_sample * len(self) <= budget:
            with suppress(PrefixChanged):
                self.kept = prefix.filled(self.data)

    def _from_kept(self, rows: Rows, run: Callable[[Samples], _T]) -> _T:
        """Run the model on the samples of rows, or what is left to run of it."""
        samples = rows.sample_of_each
        if self.kept is not None:
            try:
                with self.kept.of(samples):
                    return run(self._inputs(samples))
            except PrefixChanged:
                self.kept = None
        return run(self._inputs(samples))

    def outputs_at(self, rows: Rows) -> Float[Tensor, "row *output"]:
        """f(x) at rows, without gradient."""
        if self._outputs is not None:
            return self._outputs[rows.samples]
        position = rows.picked_position
        outputs = self._from_kept(rows, lambda x: row_outputs(self.target, x, position))
        if rows.per_sample == 1:
            return outputs
        return outputs.flatten(0, 1)[rows.place.to(outputs.device)]

    def _run(self, rows: Rows) -> Pass:
        if self._jacobian is not None:
            return JacobianPass(self.target, self.outputs_at(rows), self._jacobian[rows.samples])
        if self.plan is None:
            return LoopPass(
                self.target, self._inputs(rows.samples), rows.position, self.outputs_at(rows)
            )
        plan, position, every = self.plan, rows.picked_position, rows.per_sample > 1
        place = rows.place if self.draws.mask is not None and every else None
        return self._from_kept(rows, lambda x: plan.run(x, position, every=every, place=place))

    def _reference_of(self, outputs: Tensor, rows: Rows) -> Tensor:
        reference = self.reference(outputs, rows)
        require(
            isinstance(reference, Tensor) and reference.shape == outputs.shape,
            "reference",
            f"one output per row, shape {list(outputs.shape)}",
            shape_or_type(reference),
            "A rule (outputs, rows) returns what has the shape of outputs.",
        )
        return reference

    def _mean_reference(self) -> FixedOutput:
        """The mean output over rows of the data."""
        order = permutation(len(self), self.seed, 0)[:MEAN_SAMPLES]
        every: RowKind = "sample" if self.kind == "sample" else "token"
        draws = replace(self.draws, kind=every)
        total = torch.zeros((), dtype=torch.float64)
        n = sum(len(draws.of_samples(part, draw=0)) for part in order.split(MEAN_BATCH))
        parts, ranks = self.ranks.share(order.split(MEAN_BATCH))
        for part in parts:
            outputs = self.outputs_at(draws.of_samples(part, draw=0)).double()
            total = total.to(outputs.device) + self.divergence.to_average(outputs).sum(0)
        return FixedOutput(
            self.divergence.from_average(ranks.summed(total) / n).to(self.target.like)
        )

    def _geometry(self, row_weight: RowWeight, metric: MetricName, **options: Any) -> Geometry:
        """The geometry of all tensors together."""
        return self.geometries([self.target.names], row_weight, metric, **options)[0]

    def geometries(
        self,
        blocks: Sequence[Sequence[str]],
        row_weight: RowWeight,
        metric: MetricName,
        *,
        power: float,
        damping: float,
        background: GradientSource | None = None,
    ) -> list[Geometry]:
        """Estimate typical lengths and the metric from some rows of the data, for each of some blocks of tensors.

        The metric comes from the rows of `background` if there is one. Rows come from here with their outputs
        weighed from then on, and in no metric.
        """
        names = get_args(MetricName)
        require(metric in names, "metric", f"one of {list(names)}", repr(metric))
        require(0 <= power <= 1, "metric_power", "a power from 0 to 1", repr(power))
        finite = 0 <= damping < math.inf
        require(finite, "metric_damping", "a share of 0 or more", repr(damping))
        plain = Geometry(row_weight)
        self.geometry = Geometry()
        if row_weight == "norm" and metric == "euclidean":
            return [plain] * len(blocks)
        first = next(self._some_rows())
        outputs = self.outputs_at(first).to(self.target.like.dtype)
        e = output_gradient(self.divergence, outputs, self._reference_of(outputs, first))
        plain = replace(plain, typical_output=_rms(e.flatten(1).square().sum(1)))
        self.geometry = replace(plain, row_weight="output" if row_weight == "output" else "norm")
        whole = None
        if metric == "kronecker":
            batches, ranks = (background or self)._estimated_from()
            whole = kronecker(batches, power=power, damping=damping, ranks=ranks)
        gradients, estimated = self.gradients(first), []
        for block in blocks:
            own = None if whole is None else whole.of(block)
            measured = replace(self.geometry, metric=own).of_rows(of_tensors(gradients, block))
            typical = _rms(measured.squared_norm())
            estimated.append(replace(plain, metric=own, typical_row=typical))
        return estimated

    def _estimated_from(self) -> tuple[Callable[[], Iterable[RowGradients]], Ranks]:
        """The gradients that a metric is estimated from; made anew for each of its passes if they are large."""
        rows, ranks = self.ranks.share(list(self._some_rows()))
        makers = kept_if_small([lambda part=part: self.gradients(part) for part in rows])
        return lambda: (make() for make in makers), ranks

    def _some_rows(self) -> Iterator[Rows]:
        """Rows from which geometry is estimated: the first of an epoch, a batch at a time."""
        per_sample = self.draws.per_sample
        n = max(1, min(METRIC_BATCH // per_sample, len(self)))
        for step in range(max(1, min(METRIC_ROWS // (n * per_sample), len(self) // n))):
            yield self.rows(step, n * per_sample)

    def _inputs(self, index: Tensor | slice) -> Samples:
        """Samples as the model takes them: where its parameters are, whatever device the data are on."""
        return to_device(take(self.data, index), self.target.like.device)

    def _choose(self) -> str:
        """Prepare the engine asked for, and name it."""
        engine = self._asked
        require(
            engine != "jacobian" or self.kind == "sample",
            "engine",
            "'rule', 'replay', 'vmap' or 'loop' for token rows",
            "'jacobian'",
            "Use engine='auto'.",
        )
        inputs = to_device(samples_to_try(self.data), self.target.like.device)
        seen = survey(self.target, inputs, self.kind)
        self._output_shape = seen.output_shape
        n_outputs = torch.Size(self._output_shape).numel()
        entries = n_outputs * self.target.n_parameters * len(self)
        small = entries * self.target.like.element_size() <= JACOBIAN_BUDGET
        if engine == "jacobian" or (engine == "auto" and small and self.kind == "sample"):
            try:
                whole = jacobian(self.target, self._inputs(slice(None)))
                self._jacobian = whole.to(self.target.like)
                self._outputs = row_outputs(self.target, self._inputs(slice(None)), None)
                return "jacobian"
            except ValueError:
                if engine == "jacobian":
                    raise
        if engine == "loop":
            return "loop"
        self.plan = choose(self.target, inputs, kind=self.kind, engine=engine, found=seen)
        kinds = {choice.engine for choice in self.plan.choices.values()}
        return kinds.pop() if len(kinds) == 1 else "mixed"


def _mask(data: Samples, n_positions: int) -> Tensor | None:
    """Which positions are tokens, if some are padding, by the attention mask of the data."""
    given = None if isinstance(data, Tensor) else data.get("attention_mask")
    if given is None or given.shape[1:] != (n_positions,):
        return None
    mask = given.cpu() != 0
    require(
        bool(mask.any(1).all()),
        "data",
        "a token in every sample for token rows",
        f"{int((~mask.any(1)).sum())} of {len(mask)} samples that are padding only (attention_mask)",
        "Leave them out.",
    )
    return None if bool(mask.all()) else mask


def _rms(squares: Float[Tensor, " row"]) -> float:
    return float(squares.mean().sqrt()) or 1.0
