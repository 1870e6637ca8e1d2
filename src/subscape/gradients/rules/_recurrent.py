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


@register_rule(nn.LSTM, nn.GRU, nn.RNN)
def recurrent(
    module: nn.RNNBase,
    inputs: Tensor,
    output_gradients: Sequence[Tensor],
    states: Sequence[Tensor] = (),
    lengths: Tensor | None = None,
) -> dict[str, TensorGradient]:
    """Rule of `nn.LSTM`, `nn.GRU` and `nn.RNN`.

    Of inputs, output, last states and first states rows are the first axis, whatever the layer's own layout.
    """
    n_ways = 2 if module.bidirectional else 1
    if not states:
        sizes = [module.proj_size or module.hidden_size, module.hidden_size]
        shape = len(inputs), module.num_layers * n_ways
        sizes = sizes if isinstance(module, nn.LSTM) else sizes[:1]
        states = [inputs.new_zeros(*shape, size) for size in sizes]
    runs: list[_Run] = []
    values = inputs
    with torch.enable_grad():
        for number in range(module.num_layers * n_ways):
            layer, way = divmod(number, n_ways)
            start = tuple(state[:, number] for state in states)
            suffix = f"_l{layer}" + "_reverse" * way
            runs.append(_run(module, suffix, values, start, lengths, back=way == 1))
            if way == n_ways - 1:
                values = torch.cat([torch.stack(run.outputs, 1) for run in runs[-n_ways:]], 2)
        last = (torch.stack(each, 1) for each in zip(*(run.last for run in runs), strict=True))
        terms = [(y * e).sum() for y, e in zip((values, *last), output_gradients, strict=True)]
    gates = [g for run in runs for g in (*run.of_inputs, *run.of_states, *run.projected)]
    flowing = iter(torch.autograd.grad(terms, gates, allow_unused=True, materialize_grads=True))
    made: dict[str, TensorGradient] = {}
    for run in runs:
        for side, given in (("ih", run.inputs), ("hh", torch.stack(run.before, 1))):
            e = torch.stack([next(flowing) for _ in run.outputs], 1)
            shape = (e.shape[2], given.shape[2])
            made[f"weight_{side}{run.suffix}"] = OuterGradient(e, given.detach(), shape)
            made[f"bias_{side}{run.suffix}"] = DenseGradient(e.sum(1))
        if run.projected:
            e = torch.stack([next(flowing) for _ in run.projected], 1)
            inner = torch.stack(run.inner, 1).detach()
            shape = (e.shape[2], inner.shape[2])
            made[f"weight_hr{run.suffix}"] = OuterGradient(e, inner, shape)
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
    inner: list[Tensor]
    """What an LSTM's projection takes in."""
    projected: list[Tensor]
    """What it gives; none without one."""
    outputs: list[Tensor]
    """The hidden state."""
    last: State
    """The state at the end."""


def _run(
    module: nn.RNNBase,
    suffix: str,
    inputs: Tensor,
    state: State,
    lengths: Tensor | None,
    *,
    back: bool,
) -> _Run:
    def of(side: str, values: Tensor) -> Tensor:
        bias = module.bias and side != "hr"
        bias = getattr(module, f"bias_{side}{suffix}").detach() if bias else None
        added = linear(values, getattr(module, f"weight_{side}{suffix}").detach(), bias)
        # The graph starts here where nothing before it is part of one.
        return added if added.requires_grad else added.detach().requires_grad_(True)

    steps = []
    for t in range(inputs.shape[1])[:: -1 if back else 1]:
        of_input, of_state = of("ih", inputs[:, t]), of("hh", state[0])
        inner, *cell = _step(module, of_input, of_state, state)
        hidden = of("hr", inner) if module.proj_size else inner
        before, after = state[0], (hidden, *cell)
        if lengths is not None:  # a row that has ended, or not begun from behind, keeps its state
            there = (t < lengths)[:, None]
            after = tuple(torch.where(there, a, b) for a, b in zip(after, state, strict=True))
        state = after
        steps.append((of_input, of_state, before, inner, hidden, state[0]))
    columns = [list(column) for column in zip(*steps[:: -1 if back else 1], strict=True)]
    columns[4] *= bool(module.proj_size)
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
