"""A source of row gradients: a target, data, a divergence and a reference rule, batch after batch.

Which samples, positions and references a batch holds depends on the seed and the number of the batch
only, so a run can be resumed anywhere and replayed without touching any global random state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Literal

import torch
from torch import Tensor

from subscape._checks import problem
from subscape._shapes import Float, Int
from subscape.data import Samples, as_samples, n_samples, take, to_device
from subscape.divergences import Divergence, output_gradient
from subscape.divergences import resolve as resolve_divergence
from subscape.gradients.draws import generator_of, name_of, permutation, sha256_of
from subscape.gradients.engines import jacobian, loop_gradients, row_outputs
from subscape.gradients.memory import MemoryUse, measure
from subscape.gradients.micro_batches import MicroBatches
from subscape.gradients.one_pass import OnePass
from subscape.gradients.plan import Plan, choose
from subscape.gradients.probe import probed_shape
from subscape.gradients.row_gradients import (
    DenseRowGradients,
    FactoredRowGradients,
    RowGradients,
    check_finite,
)
from subscape.references import Reference
from subscape.references import resolve as resolve_reference
from subscape.targets import Target, check_deterministic_modules

Rows = Literal["sample", "token", "every-token"]
EngineName = Literal["auto", "jacobian", "rule", "replay", "vmap", "loop"]
Engine = EngineName | Mapping[str, str]

JACOBIAN_BUDGET = 4 * 2**20
"""Bytes of cached output Jacobian up to which `auto` takes it: a Jacobian row is read for every output, so
beyond the smallest toys the other engines are faster on a large block of rows (benchmarks/engines.py)."""


@dataclass(frozen=True)
class Batch:
    """Which rows a batch holds, and their references."""

    samples: Int[Tensor, " row"]
    """Index of every row's sample in the data."""
    position: Int[Tensor, " row"] | None
    """Position in the sequence of every token row."""
    reference: Float[Tensor, "row *output"]
    """y_r of every row."""
    outputs: Float[Tensor, "row *output"]
    """f(x) at every row."""
    one_pass: OnePass | None = field(default=None, repr=False, compare=False)
    """The model's pass that gave the outputs, while its graph can still be used."""


class GradientSource:
    """Row gradients of a target over a data set.

    Args:
        target: the model and its parameters.
        data: anything `subscape.data.as_samples` takes.
        divergence: a name of `subscape.divergences.NAMED` or a callable.
        reference: a name of `subscape.references.NAMED` or a callable.
        rows: `sample` (one row per sample), `token` (one row per sequence, at a position drawn anew every
            time) or `every-token` (every position of a sequence is a row).
        engine: `auto`; `jacobian` (outputs differentiated once, for the smallest targets); one of `rule`,
            `replay`, `vmap`, `loop` for all tensors, or a mapping from globs over parameters to these.
        seed: draws the order of samples, positions and references.

    Raises:
        ValueError: if the data do not fit the rows asked for.
    """

    def __init__(
        self,
        target: Target,
        data: Any,
        *,
        divergence: str | Divergence = "mse",
        reference: str | Reference = "another-row",
        rows: Rows = "sample",
        engine: Engine = "auto",
        seed: int = 0,
    ) -> None:
        check_deterministic_modules(target.model)  # once more: it may have been trained meanwhile
        self.target = target
        self.data: Samples = as_samples(data)
        self.divergence = resolve_divergence(divergence)
        self.reference = resolve_reference(reference)
        self.rows: Rows = rows
        self.seed = seed
        self._output_shape = probed_shape(target, self._inputs(slice(0, 2)), rows)
        self._outputs: Tensor | None = None
        self._jacobian: Tensor | None = None
        self._plan: Plan | None = None
        self.engine: str = self._choose(engine)

    @property
    def engines(self) -> dict[str, str]:
        """What makes the row gradients of every tensor, by parameter name."""
        if self._plan is not None:
            return self._plan.shown()
        return dict.fromkeys(self.target.names, self.engine)

    @property
    def plan(self) -> Plan | None:
        """The choice of engines with the reasons for it; None for `jacobian` and for the loop."""
        return self._plan

    def summary(self) -> str:
        """The target's tensors with the engine of each."""
        return self.target.summary(self.engines)

    def __len__(self) -> int:
        return n_samples(self.data)

    @property
    def rows_per_sample(self) -> int:
        """Rows that a sample gives: its positions for `every-token`, otherwise one."""
        return self._output_shape[0] if self.rows == "every-token" else 1

    @property
    def n_rows(self) -> int:
        """Rows in one pass over the data."""
        return len(self) * self.rows_per_sample

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every target tensor."""
        return self.target.shapes

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that its rows and gradients depend on: settings, and SHA-256 of target and data."""
        by_name = {"data": self.data} if isinstance(self.data, Tensor) else self.data
        return {
            "target": f"SHA-256 {self.target.fingerprint()['sha256'][:16]}",
            "outputs": self.target.outputs_name,
            "data": sha256_of(by_name),
            "divergence": name_of(self.divergence),
            "reference": name_of(self.reference),
            "rows": self.rows,
            "engine": self.engines,
            "source_seed": self.seed,
        }

    def batch(self, number: int, size: int) -> Batch:
        """The rows and references of batch `number` when batches have `size` rows; see `block`."""
        return self.block(number, 1, size)

    def block(self, first: int, count: int, size: int) -> Batch:
        """The rows and references of `count` batches in a row, drawn together.

        Args:
            first: number of the first batch, from 0; every len(self) // size batches the samples are
                shuffled anew.
            count: how many batches. Engines are faster on many rows at once.
            size: rows in a batch; each comes from another sample, or `every-token` row from another
                sequence or position.

        Returns:
            The rows, batch after batch; the same for the same seed, first, count and size.

        Raises:
            ValueError: if there are fewer samples than that, or `size` is no whole number of sequences.
        """
        return self.rows_at(torch.cat(self._drawn(first, count, size)), draw=first)

    def batch_gradients(
        self, number: int, size: int, *, at_once: int | None = None
    ) -> RowGradients:
        """Row gradients of batch `number`, in micro-batches where it is too large to be made at once.

        Args:
            number: which batch; see `block`.
            size: rows in it.
            at_once: rows that may be made at once; None for all. References are drawn within them.

        Returns:
            The gradients.

        Raises:
            ValueError: if there are not that many samples.
        """
        (samples,) = self._drawn(number, 1, size)
        per_sample, n = self.rows_per_sample, len(samples)
        n_parts = -(-n // max(1, at_once // per_sample)) if at_once else 1
        # A row alone has no other one for a reference.
        n_parts = max(1, min(n_parts, n * per_sample // 2))
        if n_parts == 1:
            return self.gradients(self.rows_at(samples, draw=number))
        parts = samples.tensor_split(n_parts)
        makers = [partial(self._part, part, number, place) for place, part in enumerate(parts)]
        return MicroBatches(makers, [len(part) * per_sample for part in parts])

    def _part(self, samples: Tensor, draw: int, part: int) -> RowGradients:
        return self.gradients(self.rows_at(samples, draw=draw, part=part))

    def _drawn(self, first: int, count: int, size: int) -> list[Tensor]:
        """The samples of `count` batches of `size` rows."""
        n = len(self)
        if self.rows == "every-token":
            n_positions = self._output_shape[0]
            if size % n_positions:
                raise ValueError(
                    problem(
                        "batch_size",
                        f"a multiple of the {n_positions} positions of a sequence for 'every-token' rows",
                        f"{size}",
                        f"{-(-size // n_positions) * n_positions} would do.",
                    )
                )
            size //= n_positions
        if size > n:
            raise ValueError(
                problem(
                    "batch_size",
                    f"at most the {n} samples there are (without those held out)",
                    f"{size}",
                    "Lower it, or give more data.",
                )
            )
        picked = []
        for number in range(first, first + count):
            epoch, place = divmod(number, n // size)
            order = permutation(n, self.seed, epoch)
            picked.append(order[place * size : (place + 1) * size])
        return picked

    def rows_at(self, samples: Int[Tensor, " sample"], *, draw: int, part: int = 0) -> Batch:
        """Rows of given samples, with positions and references drawn for draw number `draw`.

        Args:
            samples: indices of samples.
            draw: number of the draw.
            part: which micro-batch of the draw.

        Returns:
            The rows: one per sample, or with `every-token` one per position of each.

        Raises:
            ValueError: if the reference rule does not give one output per row.
        """
        generator = generator_of(self.seed, 1, draw, *([part] if part else []))
        position, one_pass, every = None, None, self.rows == "every-token"
        if self.rows == "token":
            position = torch.randint(0, self._output_shape[0], (len(samples),), generator=generator)
        if self._outputs is not None:
            outputs = self._outputs[samples]
        elif self._plan is not None:
            one_pass = self._plan.run(self._inputs(samples), position, every=every)
            outputs = one_pass.outputs
        elif every:
            with torch.no_grad():
                outputs = self.target.outputs(self._inputs(samples)).flatten(0, 1)
        else:
            outputs = row_outputs(self.target, self._inputs(samples), position)
        if every:
            n_positions = self._output_shape[0]
            position = torch.arange(n_positions).repeat(len(samples))
            samples = samples.repeat_interleave(n_positions)
            rows = samples * n_positions + position
        else:
            rows = samples
        reference = self.reference(outputs, rows, generator)
        if not isinstance(reference, Tensor) or reference.shape != outputs.shape:
            raise ValueError(
                problem(
                    "reference",
                    f"one output per row, shape {list(outputs.shape)}",
                    f"shape {list(reference.shape)}"
                    if isinstance(reference, Tensor)
                    else type(reference).__name__,
                    "A rule (outputs, rows, generator) returns what has the shape of outputs.",
                )
            )
        return Batch(samples, position, reference, outputs, one_pass)

    def gradients(self, batch: Batch) -> DenseRowGradients | FactoredRowGradients:
        """∇_W D of every row of a batch.

        Args:
            batch: rows and references.

        Returns:
            Row gradients.

        Raises:
            ValueError: if a gradient is not finite, or the divergence is not one value per row.
        """
        if self.engine == "loop":
            inputs = self._inputs(batch.samples)
            found = loop_gradients(
                self.target, inputs, batch.position, batch.reference, self.divergence
            )
            found = DenseRowGradients(found.flat.to(self.target.like), self.shapes)
            check_finite(found.dense())
            return found
        e = output_gradient(self.divergence, batch.outputs, batch.reference)
        if self._jacobian is not None:
            jacobian = self._jacobian[batch.samples]
            flat = torch.bmm(e.flatten(1)[:, None].to(jacobian), jacobian)[:, 0]
            found = DenseRowGradients(flat, self.shapes)
        else:
            found = self._pass_of(batch).gradients(e)
        # One sum is enough to see a NaN or an infinity; only then look for where it is.
        if not torch.isfinite(found.sum()):
            check_finite(found.dense())
        return found

    def _pass_of(self, batch: Batch) -> OnePass:
        """The batch's own pass if its graph is still there, otherwise a new one."""
        if batch.one_pass is not None and not batch.one_pass.used:
            return batch.one_pass
        assert self._plan is not None
        if self.rows == "every-token":
            samples = batch.samples[:: self._output_shape[0]]
            return self._plan.run(self._inputs(samples), None, every=True)
        return self._plan.run(self._inputs(batch.samples), batch.position)

    def memory(self) -> MemoryUse | None:
        """What a row takes in memory, measured on two and three samples; None where rows are not cut."""
        if self._plan is None:
            return None
        inputs = self._inputs(torch.arange(3) % len(self))
        return measure(self._plan, inputs, self._output_shape, self.rows)

    def _inputs(self, index: Tensor | slice) -> Samples:
        """Samples as the model takes them: where its parameters are, whatever device the data are on."""
        return to_device(take(self.data, index), self.target.like.device)

    def _choose(self, engine: Engine) -> str:
        """Prepare the engine asked for, and name it."""
        if engine == "jacobian" and self.rows != "sample":
            raise ValueError(
                problem(
                    "engine",
                    "'rule', 'replay', 'vmap' or 'loop' for token rows",
                    "'jacobian'",
                    "Use engine='auto'.",
                )
            )
        n_outputs = torch.Size(self._output_shape).numel()
        entries = n_outputs * self.target.n_parameters * len(self)
        small = entries * self.target.like.element_size() <= JACOBIAN_BUDGET
        if engine == "jacobian" or (engine == "auto" and small and self.rows == "sample"):
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
        self._plan = choose(
            self.target,
            self._inputs(slice(0, 3)),
            rows=self.rows,
            engine=engine,
        )
        kinds = {choice.engine for choice in self._plan.choices.values()}
        return kinds.pop() if len(kinds) == 1 else "mixed"
