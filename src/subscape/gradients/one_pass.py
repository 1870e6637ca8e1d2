"""Row gradients from one forward and one backward pass of the model as the user loaded it.

The samples of a batch do not see each other, so one backward pass of Σ_rows ∂D/∂f · f gives every captured
module the gradient of each row's own divergence. From a module's inputs and those gradients its rule, or a
replay, makes the row gradients of its parameters.

With a row per sampled position the last linear module sees the sampled positions only. With every position
a row, the model still runs forward once over the sequences; each position then has a backward pass of its
own, from the last linear module's input on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from subscape._checks import out_of_memory, problem
from subscape._shapes import Float, Int
from subscape.data import Samples, n_samples, take
from subscape.gradients.capture import Call, Calls, captured, frozen, positions_picked
from subscape.gradients.engines import loop_products, vmap_gradients
from subscape.gradients.replay import CHUNK_BUDGET, batched_leaves, replayed
from subscape.gradients.row_gradients import FactoredRowGradients
from subscape.gradients.rules import rule_of
from subscape.gradients.survey import Choice, Survey, check_calls
from subscape.gradients.table_gradients import IndexedGradient, merged
from subscape.gradients.tensor_gradients import DenseGradient, OuterGradient, TensorGradient
from subscape.targets import Target


class EngineError(ValueError):
    """An engine that failed on some tensors; says why."""

    def __init__(self, names: Sequence[str], message: str) -> None:
        super().__init__(message)
        self.names = list(names)


class OnePass:
    """The model's forward pass over some samples, and what its captured modules saw.

    `position` is that of every sample's row; None where a sample is a row, or each position is (`every`). `place`
    says which of all positions are rows, where some are padding.
    """

    def __init__(
        self,
        target: Target,
        found: Survey,
        choices: Mapping[str, Choice],
        inputs: Samples,
        position: Int[Tensor, " row"] | None,
        *,
        every: bool = False,
        place: Int[Tensor, " row"] | None = None,
    ) -> None:
        self._place = slice(None) if place is None else place.to(target.like.device)
        self._target, self._found, self._choices = target, found, choices
        self._inputs, self._position, self._every = inputs, position, every
        self._head: str | None = None
        """The last linear module, where every position is a row and it gave the outputs as they are."""
        self._modules = dict(target.model.named_modules())
        names = {c.module for c in choices.values() if c.engine == "replay"}
        names |= {o for n in self._of("rule") for o, _ in found.owners[n] if found.n_calls[o]}
        if every and found.head is not None and names:
            names.add(found.head)
        head = None if every or found.head is None else self._modules[found.head]
        with (
            frozen(target.model),
            torch.set_grad_enabled(bool(names)),
            positions_picked(head, position),
            captured({name: self._modules[name] for name in names}) as calls,
        ):
            outputs = target.called(take(inputs, slice(None)))
            self._outputs = self._at_rows(outputs, picked=head is not None)
        self._calls: Calls = calls
        of_head = calls.get(found.head or "", [])
        if every and len(of_head) == 1 and of_head[0].gave(outputs):
            self._head = found.head
        check_calls(calls, n_samples(inputs))

    def _at_rows(self, outputs: Tensor, *, picked: bool) -> Tensor:
        """What the model gave, one entry per row."""
        if self._every:
            self._n_sequences, self._n_positions = outputs.shape[:2]
            self._whole = outputs.flatten(0, 1)
            return self._whole[self._place]
        if self._position is None:
            return outputs
        if picked:
            return outputs[:, 0]
        rows = torch.arange(len(outputs), device=outputs.device)
        return outputs[rows, self._position.to(outputs.device)]

    @property
    def outputs(self) -> Float[Tensor, "row *output"]:
        """f(x) at every row, without graph."""
        return self._outputs.detach()

    def kept(self) -> list[Tensor]:
        """Inputs and outputs of captured modules."""
        calls = [call for of_module in self._calls.values() for call in of_module]
        inputs = [x for call in calls for x in call.inputs() if isinstance(x, Tensor)]
        return inputs + [y for call in calls for y in call.outputs]

    def gradients(
        self, output_gradient: Float[Tensor, "row *output"], *, again: bool = False
    ) -> FactoredRowGradients:
        """Row gradients for given ∂D/∂f."""
        e = output_gradient.to(self._outputs.dtype)
        self._again = again
        parts: dict[str, list[TensorGradient]] = {name: [] for name in self._target.names}
        flowing = self._backward(e)
        for module, of_module in flowing.items():
            for number, (call, es) in enumerate(zip(self._calls[module], of_module, strict=True)):
                self._add_rule(parts, module, call, es)
                self._add_replay(parts, module, number, call, es)
        for engine in ("vmap", "loop"):
            for name, dense in self._whole_model(engine, e).items():
                parts[name].append(DenseGradient(dense))
        like = self._target.like
        return FactoredRowGradients({
            n: merged([_converted(g, like) for g in p]) for n, p in parts.items()
        })

    def _of(self, engine: str) -> list[str]:
        return [name for name, choice in self._choices.items() if choice.engine == engine]

    def _backward(self, e: Tensor) -> dict[str, list[list[Tensor]]]:
        """∂D/∂output of every captured call, by module, call and output, each [row, ...]."""
        leaves = [
            y for of_module in self._calls.values() for call in of_module for y in call.outputs
        ]
        if not leaves:
            return {}
        if self._every:
            found = self._backward_of_every_position(e, leaves)
        elif self._outputs.requires_grad:
            found = torch.autograd.grad(
                self._outputs,
                leaves,
                e,
                retain_graph=self._again,
                allow_unused=True,
                materialize_grads=True,
            )
        else:
            found = [torch.zeros_like(leaf) for leaf in leaves]
        it = iter(found)
        return {
            name: [[next(it) for _ in call.outputs] for call in of_module]
            for name, of_module in self._calls.items()
        }

    def _backward_of_every_position(self, e: Tensor, leaves: list[Tensor]) -> list[Tensor]:
        """The same with each position a row: a backward pass per position, sequences side by side."""
        n_sequences, n_positions = self._n_sequences, self._n_positions
        if not self._outputs.requires_grad:
            return [y.new_zeros(len(e), *y.shape[1:]) for y in leaves]
        whole = e.new_zeros(self._whole.shape)
        whole[self._place] = e
        start, flow, own = self._whole, whole, set[int]()
        if self._head is not None:
            (call,) = self._calls[self._head]
            own = {id(y) for y in call.outputs}
            hidden = call.first_input()
            if hidden.requires_grad:
                (flow,) = torch.autograd.grad(start, hidden, flow, retain_graph=True)
                start, flow = hidden, flow.flatten(0, 1)
            else:
                start = None
        upstream = [y for y in leaves if id(y) not in own]
        rounds: list[tuple[Tensor, ...]] = []
        if start is not None and upstream:
            by_position = flow.unflatten(0, (n_sequences, n_positions))
            for at in range(n_positions):
                only = torch.zeros_like(by_position)
                only[:, at] = by_position[:, at]
                rounds.append(
                    torch.autograd.grad(
                        start,
                        upstream,
                        only.view_as(start),
                        retain_graph=True,
                        allow_unused=True,
                        materialize_grads=True,
                    )
                )
        gathered = (
            torch.stack(same, 1).flatten(0, 1)[self._place] for same in zip(*rounds, strict=True)
        )
        if start is None:
            gathered = (y.new_zeros(len(e), *y.shape[1:]) for y in upstream)
        # The head's own output has the gradient of its row at that row's position only.
        return [e[:, None] if id(y) in own else next(gathered) for y in leaves]

    def _rows_of(self, values: Tensor, module: str) -> Tensor:
        """What a module took in, row by row."""
        if not self._every:
            return values
        if module == self._head:
            return values.flatten(0, 1)[self._place][:, None]
        return values.repeat_interleave(self._n_positions, dim=0)[self._place]

    def _add_rule(
        self, parts: dict[str, list[TensorGradient]], module: str, call: Call, es: list[Tensor]
    ) -> None:
        wanted = {
            local: name
            for name in self._of("rule")
            for owner, local in self._found.owners[name]
            if owner == module
        }
        if not wanted:
            return
        rule = rule_of(self._modules[module])
        assert rule is not None
        try:
            with torch.no_grad():
                inputs = self._rows_of(call.first_input().detach(), module)
                if call.recurrent is not None:
                    _, lengths, states = call.recurrent
                    lengths = None if lengths is None else self._rows_of(lengths, module)
                    states = [self._rows_of(x.detach(), module) for x in states]
                    made = rule(self._modules[module], inputs, es, states, lengths)
                else:
                    made = rule(self._modules[module], inputs, es[0])
        except (RuntimeError, IndexError, TypeError, ValueError) as error:
            # A subclass with a forward of its own may be something else than the rule is about.
            if out_of_memory(error):
                raise
            raise _failed("rule", module, error, list(wanted.values())) from error
        for local, name in wanted.items():
            parts[name].append(made[local])

    def _add_replay(
        self,
        parts: dict[str, list[TensorGradient]],
        module: str,
        number: int,
        call: Call,
        es: list[Tensor],
    ) -> None:
        names = [n for n in self._of("replay") if self._choices[n].module == module]
        if not names:
            return
        local = {name.removeprefix(module + "."): name for name in names}
        surveyed = self._found.batched[module]
        try:
            if number >= len(surveyed):
                raise ValueError(
                    f"it is called {number + 1} times now and {len(surveyed)} at first"
                )
            made = replayed(
                self._modules[module],
                {short: self._target.parameters[name] for short, name in local.items()},
                call,
                es,
                batched_leaves(call, surveyed[number], n_samples(self._inputs)),
                lambda values: self._rows_of(values, module),
            )
        except (RuntimeError, IndexError, TypeError, ValueError) as error:
            if out_of_memory(error):
                raise
            raise _failed("replay", module, error, names) from error
        for short, name in local.items():
            parts[name].append(DenseGradient(made[short]))

    def _whole_model(self, engine: str, e: Tensor) -> dict[str, Tensor]:
        names = self._of(engine)
        if not names:
            return {}
        inputs, position = self._inputs, self._position
        if self._every:
            n, place = n_samples(inputs), self._place
            of_place = torch.arange(n).repeat_interleave(self._n_positions)
            inputs = take(inputs, of_place[place])
            position = torch.arange(self._n_positions).repeat(n)[place]
        if engine == "loop":
            return loop_products(self._target, inputs, position, e, names=names)
        size = sum(self._target.parameters[n].numel() * e.element_size() for n in names)
        chunk = max(1, CHUNK_BUDGET // size)
        try:
            return vmap_gradients(
                self._target,
                inputs,
                position,
                e,
                names=names,
                chunk=None if chunk >= len(e) else chunk,
            )
        except (RuntimeError, IndexError, TypeError, ValueError) as error:
            if out_of_memory(error):
                raise
            raise EngineError(names, str(error)) from error


def _failed(engine: str, module: str, error: Exception, names: Sequence[str]) -> EngineError:
    reason = f"it fails ({str(error).strip().splitlines()[0][:160]})"
    message = problem("engine", f"a {engine} of {module!r}", reason, "Use engine='auto'.")
    return EngineError(names, message)


def _converted(gradient: TensorGradient, like: Tensor) -> TensorGradient:
    """In the working dtype and on the working device."""
    match gradient:
        case DenseGradient(values):
            return DenseGradient(values.to(like))
        case OuterGradient(left, right, shape):
            return OuterGradient(left.to(like), right.to(like), shape)
        case IndexedGradient(index, right, shape):
            return IndexedGradient(index.to(like.device), right.to(like), shape)
        case _:
            return gradient
