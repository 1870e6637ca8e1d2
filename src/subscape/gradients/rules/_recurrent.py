"""Recurrent layers: g = Σ_t e_t ⊗ a_t over the steps t, with e_t what comes back to the gates at step t.

The layer is run again step by step over all rows at once, so that autograd gives e_t of every row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from subscape.gradients.rules.registry import register_rule
from subscape.gradients.tensor_gradients import DenseGradient, OuterGradient, TensorGradient

State = tuple[Tensor, ...]
"""Of one layer and direction: hidden, and cell of an LSTM; each [row, hidden]."""


@register_rule(
    nn.LSTM, nn.GRU, nn.RNN, when=lambda module: module.batch_first and not module.proj_size
)
def recurrent(
    module: nn.RNNBase,
    inputs: Tensor,
    output_gradients: Sequence[Tensor],
    states: Sequence[Tensor] = (),
) -> dict[str, TensorGradient]:
    """Rule of `nn.LSTM`, `nn.GRU` and `nn.RNN` with `batch_first`.

    Of the output, the last states and the first states rows are the first axis.
    """
    n_ways = 2 if module.bidirectional else 1
    if not states:
        zeros = inputs.new_zeros(len(inputs), module.num_layers * n_ways, module.hidden_size)
        states = [zeros] * (2 if isinstance(module, nn.LSTM) else 1)
    runs: list[_Run] = []
    values = inputs
    with torch.enable_grad():
        for number in range(module.num_layers * n_ways):
            layer, way = divmod(number, n_ways)
            start = tuple(state[:, number] for state in states)
            runs.append(_run(module, f"_l{layer}" + "_reverse" * way, values, start, way == 1))
            if way == n_ways - 1:
                values = torch.cat([torch.stack(run.outputs, 1) for run in runs[-n_ways:]], 2)
        last = (torch.stack(each, 1) for each in zip(*(run.last for run in runs), strict=True))
        terms = [(y * e).sum() for y, e in zip((values, *last), output_gradients, strict=True)]
    gates = [gate for run in runs for gate in (*run.of_inputs, *run.of_states)]
    flowing = iter(torch.autograd.grad(terms, gates, allow_unused=True, materialize_grads=True))
    made: dict[str, TensorGradient] = {}
    for run in runs:
        for side, given in (("ih", run.inputs), ("hh", torch.stack(run.before, 1))):
            e = torch.stack([next(flowing) for _ in run.outputs], 1)
            shape = (e.shape[2], given.shape[2])
            made[f"weight_{side}{run.suffix}"] = OuterGradient(e, given.detach(), shape)
            made[f"bias_{side}{run.suffix}"] = DenseGradient(e.sum(1))
    return made


@dataclass(frozen=True)
class _Run:
    """A layer in one direction; lists are by step, in the order of the inputs."""

    suffix: str
    """Of the names of its parameters."""
    inputs: Tensor
    """[row, step, input]."""
    of_inputs: list[Tensor]
    """What inputs add to the gates."""
    of_states: list[Tensor]
    """What the state before adds."""
    before: list[Tensor]
    """That state."""
    outputs: list[Tensor]
    """The hidden state."""
    last: State
    """The state at the end."""


def _run(module: nn.RNNBase, suffix: str, inputs: Tensor, state: State, back: bool) -> _Run:
    def of(side: str, values: Tensor) -> Tensor:
        bias = getattr(module, f"bias_{side}{suffix}").detach() if module.bias else None
        added = linear(values, getattr(module, f"weight_{side}{suffix}").detach(), bias)
        # The graph starts here where nothing before it is part of one.
        return added if added.requires_grad else added.detach().requires_grad_(True)

    steps = []
    for values in inputs.unbind(1)[:: -1 if back else 1]:
        of_input, of_state = of("ih", values), of("hh", state[0])
        before, state = state[0], _step(module, of_input, of_state, state)
        steps.append((of_input, of_state, before, state[0]))
    columns = (list(column) for column in zip(*steps[:: -1 if back else 1], strict=True))
    return _Run(suffix, inputs, *columns, last=state)


def _step(module: nn.RNNBase, of_input: Tensor, of_state: Tensor, state: State) -> State:
    """The next state from the gates of input and state."""
    if isinstance(module, nn.LSTM):
        i, f, g, o = (of_input + of_state).chunk(4, 1)
        cell = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        return o.sigmoid() * cell.tanh(), cell
    if isinstance(module, nn.GRU):
        (r, z, new), (r_state, z_state, new_state) = of_input.chunk(3, 1), of_state.chunk(3, 1)
        new = (new + (r + r_state).sigmoid() * new_state).tanh()
        kept = (z + z_state).sigmoid()
        return ((1 - kept) * new + kept * state[0],)
    both = of_input + of_state
    return (both.relu() if module.nonlinearity == "relu" else both.tanh(),)
