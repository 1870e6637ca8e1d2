"""Which engine makes the row gradients of which tensor, tried out before it is trusted.

For every tensor the engines of `survey.candidates` are tried in turn on a few rows of the user's own data,
and the first whose gradients equal plain autograd's is taken. So a module that is never called, that is
called on flattened inputs, whose weight is also used elsewhere, or whose rows mix, cannot go wrong unseen.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from subscape._checks import problem
from subscape._shapes import Int
from subscape.data import Samples, n_samples, take
from subscape.gradients.capture import UnsafeModuleError
from subscape.gradients.engines import gradients_at, loop_products
from subscape.gradients.memory import MemoryUse, Passing, watched
from subscape.gradients.one_pass import EngineError, OnePass
from subscape.gradients.row_gradients import check_finite
from subscape.gradients.survey import Choice, Survey, candidates, forced, survey
from subscape.rows import RowKind
from subscape.targets import Target

TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}
"""Largest relative error of a tensor's row gradients against the loop; rounding is far below it, and what
it is there to find (a missed use, mixed rows) far above."""
NEGLIGIBLE = 1e-3
"""A tensor's gradient below this share of the whole row gradient need not be right in its own measure."""
N_TRIED = 3
"""Rows on which engines are tried."""


@dataclass(frozen=True)
class Plan:
    """The engine of every tensor of a target."""

    target: Target
    """The model and its parameters."""
    found: Survey
    """How its modules are called."""
    choices: Mapping[str, Choice]
    """By parameter name, in model order."""
    memory: MemoryUse
    """What a row takes."""

    def run(
        self,
        inputs: Samples,
        position: Int[Tensor, " row"] | None,
        *,
        every: bool = False,
        place: Int[Tensor, " row"] | None = None,
    ) -> OnePass:
        """Run the model over samples; see `OnePass`."""
        parts = self.target, self.found, self.choices, inputs, position
        return OnePass(*parts, every=every, place=place)

    def of(self, target: Target) -> Plan:
        """The plan for some of its tensors."""
        return replace(self, target=target, choices={n: self.choices[n] for n in target.names})

    def shown(self) -> dict[str, str]:
        """The engines in words, by parameter name."""
        return {
            name: f"{choice.engine} ({choice.module})"
            if choice.engine == "replay"
            else choice.engine
            for name, choice in self.choices.items()
        }


def samples_to_try(data: Samples) -> Samples:
    """The first three samples; again from the start where there are fewer."""
    return take(data, torch.arange(N_TRIED) % n_samples(data))


def choose(
    target: Target,
    inputs: Samples,
    *,
    kind: RowKind,
    engine: str | Mapping[str, str] = "auto",
    found: Survey | None = None,
) -> Plan:
    """Try engines out and take the first that is right, tensor by tensor."""
    asked = forced(target.names, engine)
    found = found or survey(target, inputs, kind)
    ways = {name: list(candidates(found, name, target.model)) for name in target.names}
    trial = _Trial(target, found, inputs, asked, kind)
    choices = {name: _next(ways[name], asked[name], None, name) for name in target.names}
    while refused := trial.refused(choices):
        for name, reason in refused.items():
            choices[name] = _next(ways[name], asked[name], (choices[name], reason), name)
    slow = [name for name, c in choices.items() if c.engine == "loop" and asked[name] is None]
    if slow:
        reasons = "; ".join(choices[slow[0]].passed_over)
        message = f"Row gradients of {slow} are made one by one, which is slow: {reasons}"
        warnings.warn(message, stacklevel=2)
    errors = trial.errors
    choices = {n: replace(c, error=errors[n]) for n, c in choices.items()}
    return Plan(target, found.without_graph(), choices, trial.memory)


Way = tuple[Choice, str]
"""A choice, and why it is out of the question; empty where it is worth trying."""


def _next(
    ways: list[Way], asked: str | None, refused: tuple[Choice, str] | None, name: str
) -> Choice:
    """The first way left for a tensor, which is taken off the list."""
    passed = (
        [] if refused is None else [*refused[0].passed_over, f"{_label(refused[0])}: {refused[1]}"]
    )
    while ways:
        choice, reason = ways.pop(0)
        if asked is not None and choice.engine != asked:
            continue
        if not reason:
            return replace(choice, passed_over=tuple(passed))
        passed.append(f"{_label(choice)}: {reason}")
    raise ValueError(
        problem(
            "engine",
            f"row gradients of {name!r} by {asked!r}",
            "; ".join(passed) or "no such engine for it",
            "Use engine='auto', which takes the first engine that is right.",
        )
    )


def _label(choice: Choice) -> str:
    return f"{choice.engine} of {choice.module}" if choice.module else choice.engine


class _Trial:
    """Row gradients of a few rows along random output directions, against the loop's."""

    def __init__(
        self,
        target: Target,
        found: Survey,
        inputs: Samples,
        asked: Mapping[str, str | None],
        kind: RowKind,
    ) -> None:
        self._target, self._found, self._inputs, self._asked = target, found, inputs, asked
        outputs = found.outputs
        self._position: Tensor | None = None
        self._length = outputs.shape[1] if kind == "token" else None
        if kind != "sample":
            n = outputs.shape[1]
            self._position = torch.tensor([n - 1, n // 2, n // 3])
            outputs = outputs[torch.arange(N_TRIED), self._position]
        generator = torch.Generator().manual_seed(0)
        self._e = torch.randn(outputs.shape, generator=generator).to(outputs)
        self._oracle = gradients_at(outputs, self._e, found.leaves)
        check_finite(self._oracle)
        self._alone = False
        self._tolerance = max(TOLERANCE.get(p.dtype, 1e-3) for p in target.parameters.values())
        self.errors: dict[str, float] = {}
        self.memory = MemoryUse(0, 0, {})

    def refused(self, choices: Mapping[str, Choice]) -> dict[str, str]:
        """Tensors whose engine fails or is wrong, with the reason."""
        try:
            made = self._made(choices)
        except EngineError as error:
            if all(choices[name].engine == "vmap" and self._asked[name] for name in error.names):
                # Nothing else may be tried, and it says best itself what is wrong.
                raise ValueError(str(error)) from error
            return dict.fromkeys(error.names, str(error))
        except UnsafeModuleError as error:
            captured = [n for n, c in choices.items() if c.engine in ("rule", "replay")]
            return dict.fromkeys(captured, str(error))
        reasons = self._off(made)
        if reasons and not self._alone:
            # In a backward pass too samples may meet (an embedding that counts tokens), but not in the loop.
            parts = self._target, self._inputs, self._position, self._e
            self._oracle, self._alone = loop_products(*parts), True
            reasons = self._off(made)
        return reasons

    def _off(self, made: Mapping[str, Tensor]) -> dict[str, str]:
        """Tensors whose gradients are not the oracle's."""
        reasons = {}
        # A tensor whose own gradient is nothing but rounding is measured by the whole row gradient.
        norms = [
            torch.linalg.vector_norm(g.reshape(N_TRIED, -1), dim=1) for g in self._oracle.values()
        ]
        least = NEGLIGIBLE * float(torch.stack(norms).norm(dim=0).max())
        for name, gradient in made.items():
            oracle = self._oracle[name].to(self._target.like)
            self.errors[name] = relative_error(gradient, oracle, at_least=least)
            if not self.errors[name] <= self._tolerance:
                reasons[name] = (
                    f"off by {self.errors[name]:.0%} from plain autograd (a use it does not see, "
                    "or rows that mix)"
                )
        return reasons

    def _made(self, choices: Mapping[str, Choice]) -> dict[str, Tensor]:
        position, length = self._position, self._length
        every = length is not None
        parts = self._target, self._found, choices, self._inputs
        with watched(self._target.model) as storages:
            one = OnePass(*parts, None if every else position, every=every)
        at: Tensor | slice = slice(None)
        e = self._e
        if length is not None and position is not None:
            # Every position is a row; only three of them are looked at.
            at = torch.arange(N_TRIED) * length + position
            e = torch.zeros_like(one.outputs)
            e[at] = self._e
        with Passing() as passing:
            made = one.gradients(e)
        self.memory = MemoryUse.of(storages, one, made, passing)
        return {name: dense[at] for name, dense in made.dense().items()}


def relative_error(found: Tensor, expected: Tensor, *, at_least: float = 0.0) -> float:
    """The largest ‖found_i − expected_i‖ over rows, relative to the largest row of expected."""
    difference = (found - expected).reshape(len(found), -1).norm(dim=1).max()
    scale = max(float(expected.reshape(len(expected), -1).norm(dim=1).max()), at_least)
    return float(difference) / scale if scale > 0 else float(difference)
