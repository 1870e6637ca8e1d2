"""Are the row gradients right? Every tensor's engine against the loop, alone and in batches, and padded.

What `subscape check` prints. A run tries its engines on three rows before it trusts them; this looks at more
rows, at real divergences, and at what should make no difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from subscape._checks import require
from subscape.data import Samples, n_samples, take
from subscape.divergences import Divergence, Values, as_divergence, output_gradient
from subscape.gradients.engines import loop_products, row_outputs
from subscape.gradients.one_pass import EngineError
from subscape.gradients.plan import TOLERANCE, Plan, choose, relative_error, samples_to_try
from subscape.rows import RowKind
from subscape.targets import Target


@dataclass(frozen=True)
class TensorCheck:
    """One parameter's figures: largest relative errors of a row's gradient."""

    name: str
    """The parameter."""
    engine: str
    """What makes its row gradients."""
    errors: Mapping[str, float]
    """By comparison: `loop`, `alone`, and where they apply `right padding` and `left padding`."""


@dataclass(frozen=True)
class CheckResult:
    """What `check` found."""

    tensors: list[TensorCheck]
    """One per parameter, in model order."""
    tolerance: float
    """Largest error that counts as rounding, by the dtype of the model."""
    n_rows: int
    """Rows looked at."""
    notes: list[str] = field(default_factory=list)
    """Comparisons that do not apply, and engines that were passed over, with the reason."""

    @property
    def ok(self) -> bool:
        """Whether every error is rounding."""
        return all(e <= self.tolerance for t in self.tensors for e in t.errors.values())

    def __str__(self) -> str:
        columns = list(self.tensors[0].errors)
        width = max(len(t.name) for t in self.tensors)
        engine = max(6, *(len(t.engine) for t in self.tensors))
        head = f"{'tensor':<{width}}  {'engine':<{engine}}"
        lines = [head + "".join(f"  {c:>13}" for c in columns)]
        for t in self.tensors:
            shown = "".join(
                f"  {e:>12.1e}{' ' if e <= self.tolerance else '!'}" for e in t.errors.values()
            )
            lines.append(f"{t.name:<{width}}  {t.engine:<{engine}}{shown}")
        verdict = "right" if self.ok else "WRONG where marked with !"
        lines.append(
            f"{self.n_rows} rows, largest relative error of a row; {verdict} "
            f"(tolerance {self.tolerance:.0e})"
        )
        return "\n".join([*lines, *self.notes])


def check(
    target: Target,
    data: Samples,
    *,
    token_rows: bool = False,
    divergence: str | Divergence | Values = "mse",
    engine: str | Mapping[str, str] = "auto",
    n_rows: int = 8,
) -> CheckResult:
    """Compare row gradients with the loop's, alone with batched, and padded with unpadded.

    Args:
        target: the model and its parameters.
        data: samples; the first `n_rows` are used.
        token_rows: whether rows are positions of sequences (here: spread over the positions).
        divergence: as for `decompose`; the reference is the next row's output.
        engine: as for `decompose`.
        n_rows: rows to look at.

    Raises:
        ValueError: if there are fewer than 2 rows, or the model does not take the data.
    """
    inputs = take(data, slice(0, n_rows)) if n_rows > 0 else data
    require(
        n_rows >= 2 and n_samples(inputs) >= 2,
        "n_rows",
        "at least 2 rows, as the reference of each is the next one's output",
        f"n_rows={n_rows} of {n_samples(data)} samples",
    )
    kind: RowKind = "sampled-token" if token_rows else "sample"
    plan = choose(target, samples_to_try(inputs), kind=kind, engine=engine)
    n = n_samples(inputs)
    position = None
    if token_rows:
        length = plan.found.output_shape[0]
        position = (torch.arange(n) * 7 + length - 1) % length
    outputs = row_outputs(target, inputs, position)
    e = output_gradient(as_divergence(divergence), outputs, outputs.roll(1, 0))
    oracle = _working(loop_products(target, inputs, position, e), target)
    batched = plan.run(inputs, position).gradients(e).dense()
    found = {"loop": batched, "alone": _alone(plan, inputs, position, e)}
    notes = [
        f"{name}: {choice.engine}, because not {'; not '.join(choice.passed_over)}"
        for name, choice in plan.choices.items()
        if choice.passed_over
    ]
    for side in ("right", "left"):
        padded = _padded(plan, inputs, position, e, outputs, side)
        if isinstance(padded, str):
            notes.append(f"{side} padding: {padded}")
        else:
            found[f"{side} padding"] = padded
    engines = plan.shown()
    tensors = [
        TensorCheck(
            name,
            engines[name],
            {k: relative_error(g[name], oracle[name]) for k, g in found.items()},
        )
        for name in target.names
    ]
    tolerance = max(TOLERANCE.get(p.dtype, 1e-3) for p in target.parameters.values())
    return CheckResult(tensors, tolerance, n, notes)


def _alone(plan: Plan, inputs: Samples, position: Tensor | None, e: Tensor) -> dict[str, Tensor]:
    rows = []
    for i in range(len(e)):
        one = slice(i, i + 1)
        at = None if position is None else position[one]
        rows.append(plan.run(take(inputs, one), at).gradients(e[one]).dense())
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


def _padded(
    plan: Plan,
    inputs: Samples,
    position: Tensor | None,
    e: Tensor,
    outputs: Tensor,
    side: str,
    n_extra: int = 3,
) -> dict[str, Tensor] | str:
    """Row gradients with padding on one side; or why that cannot be compared."""
    if position is None or isinstance(inputs, Tensor) or "input_ids" not in inputs:
        return "not tried: rows are not tokens of `input_ids`"
    ids = inputs["input_ids"]
    given = inputs.get("attention_mask", torch.ones_like(ids))
    amounts = (n_extra, 0) if side == "left" else (0, n_extra)
    padded = {
        **inputs,
        "input_ids": torch.nn.functional.pad(ids, amounts),
        "attention_mask": torch.nn.functional.pad(given, amounts),
    }
    shifted = position + amounts[0]
    try:
        one = plan.run(padded, shifted)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        return f"not tried: the model does not take it ({str(error).splitlines()[0][:100]})"
    if relative_error(one.outputs, outputs) > TOLERANCE.get(outputs.dtype, 1e-3):
        return "makes the model's own outputs differ (positions are counted from the first token)"
    try:
        return one.gradients(e).dense()
    except EngineError as error:
        return f"an engine refuses padded sequences ({str(error).splitlines()[0][:160]})"


def _working(gradients: dict[str, Tensor], target: Target) -> dict[str, Tensor]:
    return {name: g.to(target.like) for name, g in gradients.items()}
