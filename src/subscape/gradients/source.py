"""A source of row gradients: a target, data, a divergence and a reference rule, batch after batch.

Which samples, positions and references a batch holds depends on the seed and the number of the batch
only, so a run can be resumed anywhere and replayed without touching any global random state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from subscape._checks import problem
from subscape._shapes import Float, Int
from subscape.data import Samples, as_samples, n_samples, take, to_device
from subscape.divergences import Divergence, output_gradient
from subscape.divergences import resolve as resolve_divergence
from subscape.gradients.engines import jacobian, loop_gradients, row_outputs, vmap_gradients
from subscape.gradients.row_gradients import DenseRowGradients
from subscape.references import Reference
from subscape.references import resolve as resolve_reference
from subscape.targets import Target, check_deterministic_modules

Rows = Literal["sample", "token"]
Engine = Literal["auto", "jacobian", "vmap", "loop"]

JACOBIAN_BUDGET = 4 * 2**20
"""Bytes of cached output Jacobian above which `auto` takes vmap: a Jacobian row is read for every output,
so beyond the smallest toys vmap over a large block of rows is faster too (benchmarks/engines.py)."""
CHUNK_BUDGET = 128 * 2**20
"""Bytes of dense row gradients that one vmap chunk may make."""


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


class GradientSource:
    """Row gradients of a target over a data set.

    Args:
        target: the model and its parameters.
        data: anything `subscape.data.as_samples` takes.
        divergence: a name of `subscape.divergences.NAMED` or a callable.
        reference: a name of `subscape.references.NAMED` or a callable.
        rows: `sample` (one row per sample) or `token` (one row per sampled position of a sequence).
        engine: `auto`, `jacobian`, `vmap` or `loop`.
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
        self._output_shape = self._probe()
        self.engine: Engine = self._choose(engine)
        self._outputs: Tensor | None = None
        self._jacobian: Tensor | None = None
        if self.engine == "jacobian":
            self._outputs = row_outputs(target, self.data, None)
            self._jacobian = jacobian(target, self.data)

    def __len__(self) -> int:
        return n_samples(self.data)

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
            "data": _sha256(by_name),
            "divergence": _name(self.divergence),
            "reference": _name(self.reference),
            "rows": self.rows,
            "engine": self.engine,
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
            size: rows in a batch; within a batch each comes from another sample.

        Returns:
            The rows, batch after batch; the same for the same seed, first, count and size.

        Raises:
            ValueError: if there are fewer samples than `size`.
        """
        n = len(self)
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
            order = _permutation(n, self.seed, epoch)
            picked.append(order[place * size : (place + 1) * size])
        return self.rows_at(torch.cat(picked), draw=first)

    def rows_at(self, samples: Int[Tensor, " row"], *, draw: int) -> Batch:
        """Rows of given samples, with positions and references drawn for draw number `draw`."""
        generator = generator_of(self.seed, 1, draw)
        position = None
        if self.rows == "token":
            position = torch.randint(0, self._output_shape[0], (len(samples),), generator=generator)
        if self._outputs is not None:
            outputs = self._outputs[samples]
        else:
            outputs = row_outputs(self.target, self._inputs(samples), position)
        reference = self.reference(outputs, samples, generator)
        if not isinstance(reference, Tensor) or reference.shape != outputs.shape:
            raise ValueError(
                problem(
                    "reference",
                    f"one output per row, shape {list(outputs.shape)}",
                    _shape(reference),
                    "A rule (outputs, rows, generator) returns what has the shape of outputs.",
                )
            )
        return Batch(samples, position, reference, outputs)

    def gradients(self, batch: Batch) -> DenseRowGradients:
        """∇_W D of every row of a batch.

        Args:
            batch: rows and references.

        Returns:
            Row gradients.

        Raises:
            ValueError: if a gradient is not finite, or the divergence is not one value per row.
        """
        inputs = self._inputs(batch.samples)
        if self.engine == "loop":
            found = loop_gradients(
                self.target, inputs, batch.position, batch.reference, self.divergence
            )
        else:
            e = output_gradient(self.divergence, batch.outputs, batch.reference)
            if self._jacobian is not None:
                flat = torch.bmm(e.flatten(1)[:, None], self._jacobian[batch.samples])[:, 0]
            else:
                flat = vmap_gradients(
                    self.target, inputs, batch.position, e, chunk=self._chunk(len(batch.samples))
                )
            found = DenseRowGradients(flat, self.shapes)
        check_finite(found)
        return found

    def _inputs(self, index: Tensor | slice) -> Samples:
        """Samples as the model takes them: where its parameters are, whatever device the data are on."""
        return to_device(take(self.data, index), self.target.like.device)

    def _probe(self) -> tuple[int, ...]:
        """Shape of one sample's output, checked against the kind of rows."""
        first = self._inputs(slice(0, 2))
        try:
            outputs = row_outputs(self.target, first, None)
        except (RuntimeError, IndexError) as error:
            by_name = {"": first} if isinstance(first, Tensor) else first
            shapes = ", ".join(f"{k} {list(v.shape)}".strip() for k, v in by_name.items())
            raise ValueError(
                problem(
                    "data",
                    "inputs that the model takes",
                    f"shape {shapes}, at which it fails ({error})",
                    "Try model(data[:2]), or pass outputs= to call it in another way.",
                )
            ) from error
        if self.rows == "token" and outputs.dim() < 3:
            raise ValueError(
                problem(
                    "rows",
                    "outputs [sample, position, output] for token rows",
                    f"outputs of shape {list(outputs.shape)}",
                    "Use rows='sample', or an outputs function that keeps positions.",
                )
            )
        if self.rows not in ("sample", "token"):
            raise ValueError(problem("rows", "'sample' or 'token'", repr(self.rows), ""))
        if outputs.shape[:1] != (min(2, len(self)),):
            raise ValueError(
                problem(
                    "outputs",
                    f"one entry per sample along the first axis ({min(2, len(self))})",
                    f"shape {list(outputs.shape)}",
                    "Do not reduce over samples in the outputs function.",
                )
            )
        if outputs.dim() < 2:
            raise ValueError(
                problem(
                    "outputs",
                    "[sample, output] or more axes",
                    f"shape {list(outputs.shape)}",
                    "Give single numbers an axis of their own: outputs=lambda model, batch: "
                    "model(batch)[:, None].",
                )
            )
        if not torch.isfinite(outputs).all():
            raise ValueError(
                problem(
                    "outputs", "finite values", "NaN or infinite ones", "Check inputs and model."
                )
            )
        if not torch.equal(outputs, row_outputs(self.target, first, None)):
            raise ValueError(
                problem(
                    "model",
                    "the same outputs for the same inputs",
                    "outputs that differ from one call to the next",
                    "Call model.eval(), and switch off what draws at random in its forward.",
                )
            )
        return tuple(outputs.shape[1:])

    def _choose(self, engine: Engine) -> Engine:
        if engine not in ("auto", "jacobian", "vmap", "loop"):
            raise ValueError(
                problem("engine", "'auto', 'jacobian', 'vmap' or 'loop'", repr(engine), "")
            )
        if engine == "jacobian" and self.rows == "token":
            raise ValueError(
                problem(
                    "engine", "'vmap' or 'loop' for token rows", "'jacobian'", "Use engine='auto'."
                )
            )
        if engine != "auto":
            return engine
        n_outputs = torch.Size(self._output_shape).numel()
        entries = n_outputs * self.target.n_parameters * len(self)
        small = entries * self.target.like.element_size() <= JACOBIAN_BUDGET
        return "jacobian" if small and self.rows == "sample" else "vmap"

    def _chunk(self, n_rows: int) -> int | None:
        row = self.target.n_parameters * self.target.like.element_size()
        chunk = max(1, CHUNK_BUDGET // row)
        return None if chunk >= n_rows else chunk


def check_finite(gradients: DenseRowGradients) -> None:
    """Refuse gradients that are not finite, naming the tensors.

    Args:
        gradients: row gradients.

    Raises:
        ValueError: if any entry is NaN or infinite.
    """
    # One sum is enough to see a NaN or an infinity; only then look for where it is.
    if torch.isfinite(gradients.flat.sum()):
        return
    bad = [name for name, g in gradients.dense().items() if not torch.isfinite(g).all()]
    if bad:
        raise ValueError(
            problem(
                "gradients",
                "finite row gradients",
                f"NaN or infinite values in {bad}",
                "Check the inputs, the divergence (kl takes logits) and the model's dtype.",
            )
        )


def _shape(value: Any) -> str:
    return f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    """The start of a SHA-256 of names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, values in tensors.items():
        digest.update(f"{name} {values.dtype} {list(values.shape)}".encode())
        raw = values.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest.update(raw.numpy().tobytes())
    return f"SHA-256 {digest.hexdigest()[:16]}"


def _name(rule: Any) -> str:
    """Name of a function or type, the same in every process; a data class shows its fields."""
    if is_dataclass(rule):
        values = {f.name: getattr(rule, f.name) for f in fields(rule)}
        shown = [f"{k}={_sha256({k: v})}" for k, v in values.items() if isinstance(v, Tensor)]
        shown += [f"{k}={v!r}" for k, v in values.items() if not isinstance(v, Tensor)]
        return f"{type(rule).__qualname__}({', '.join(shown)})"
    return getattr(rule, "__qualname__", type(rule).__qualname__)


def generator_of(*numbers: int) -> torch.Generator:
    """A CPU generator that depends on `numbers` only: its own stream for every use of a seed."""
    state = 0
    for number in numbers:
        # splitmix64 step: neighbouring numbers must not give related Mersenne seeds.
        state = (state + number + 0x9E3779B97F4A7C15) % 2**64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % 2**64
        state ^= state >> 31
    return torch.Generator().manual_seed(state - 2**63)


@lru_cache(maxsize=8)
def _permutation(n: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(n, generator=generator_of(seed, 0, epoch))
