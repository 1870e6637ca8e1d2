"""What the model computes in front of the chosen parameters: for every sample once, not at every step.

The parameters stay as they are, so a call of a module that the chosen ones do not reach always gives the same for
a sample. The outermost such calls are skipped: the model's own forward runs, and in it these modules hand out what
they gave before. Only what somebody looks at is kept, mostly what the last of them gave; the others give a tensor
without values, which refuses to be used. So a forward in free Python cannot go wrong unseen.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten
from torch.utils.flop_counter import FlopCounterMode

from subscape._shapes import Int
from subscape.data import Samples, n_samples, take, to_device
from subscape.gradients.capture import frozen
from subscape.targets import Target

BATCH = 32
"""Samples of a forward pass that fills it. Always the same ones together: rounding depends on the batch."""
LEAST_SHARE = 0.1
"""Share of a forward pass's operations below which skipping them does not pay."""


class PrefixChanged(RuntimeError):
    """The model now asks for what it did not use on the samples that it was looked at with."""


@dataclass
class _Call:
    """One call of a module, in the order in which calls begin."""

    module: str
    inside: int | None
    """Number of the call in which it happens."""
    leaves: list[Any]
    """Of its output."""
    form: TreeSpec | None = None


@dataclass(frozen=True)
class Prefix:
    """The calls that can be skipped."""

    target: Target
    """Whose parameters they do not depend on."""
    calls: Mapping[int, _Call]
    """By number, with what they gave for three samples."""
    by_sample: Mapping[int, list[bool]]
    """Which leaves have an entry per sample; the others are the same for all."""
    order: Mapping[str, list[int | None]]
    """Module → number of each of its calls that happen when all these are skipped; None for one that runs."""
    needed: frozenset[int]
    """The calls whose outputs are used."""

    @property
    def bytes_per_sample(self) -> int:
        """What is kept of a sample."""
        return sum(leaf.nbytes // len(leaf) for _, _, leaf in self._kept())

    def _kept(self) -> list[tuple[int, int, Tensor]]:
        """Call, place in its output, and value of all that is kept by sample."""
        return [
            (number, place, leaf)
            for number in sorted(self.needed)
            for place, leaf in enumerate(self.calls[number].leaves)
            if self.by_sample[number][place]
        ]

    @contextmanager
    def skipped(self, kept: Mapping[tuple[int, int], Tensor], n: int) -> Generator[set[int]]:
        """Let the calls hand out what is kept for n samples; collects those that are used and have nothing."""
        modules, missed = dict(self.target.model.named_modules()), set[int]()
        with ExitStack() as stack:
            for name, numbers in self.order.items():
                module, rest = modules[name], iter(numbers)
                before = vars(module).get("forward")
                run = module.forward
                vars(module)["forward"] = partial(self._forward, rest, run, kept, n, missed)
                stack.callback(_put_back, module, before)
            yield missed

    def _forward(
        self,
        rest: Any,
        run: Callable[..., Any],
        kept: Mapping[tuple[int, int], Tensor],
        n: int,
        missed: set[int],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """What stands for the forward of a module."""
        try:
            number = next(rest)
        except StopIteration:
            raise PrefixChanged("a module is called more often than before") from None
        if number is None:
            return run(*args, **kwargs)
        call = self.calls[number]
        leaves = list(call.leaves)
        for place, leaf in enumerate(leaves):
            by_sample = self.by_sample[number][place]
            if not isinstance(leaf, Tensor):
                continue
            if number not in self.needed:
                size = (n, *leaf.shape[1:]) if by_sample else leaf.shape
                leaves[place] = _absent(leaf, size, number, missed)
            else:
                # The model may go on with it in place.
                leaves[place] = kept[number, place] if by_sample else leaf.clone()
        assert call.form is not None
        return tree_unflatten(leaves, call.form)

    def filled(self, data: Samples) -> Kept:
        """What the calls give for all samples, by one forward pass over them."""
        kept: dict[tuple[int, int], Tensor] = {}
        wanted = self._kept()
        n, model = n_samples(data), self.target.model
        for part in torch.arange(n).split(BATCH):
            inputs = to_device(take(data, part), self.target.like.device)
            with frozen(model), torch.no_grad(), _seen(model, self.needed) as calls:
                self.target.called(inputs)
            for number, place, leaf in wanted:
                if len(calls) <= number or calls[number].module != self.calls[number].module:
                    raise PrefixChanged("other modules are called")
                values = calls[number].leaves[place]
                if values.shape[1:] != leaf.shape[1:] or len(values) != len(part):
                    raise PrefixChanged("outputs of another shape")
                whole = kept.setdefault((number, place), values.new_empty(n, *values.shape[1:]))
                whole[part.to(whole.device)] = values
        return Kept(self, kept)


@dataclass(frozen=True)
class Kept:
    """Outputs of the calls that are skipped, of every sample."""

    prefix: Prefix
    """The calls."""
    values: Mapping[tuple[int, int], Tensor]
    """By call and place in its output, [sample, ...]."""

    @property
    def bytes(self) -> int:
        """Memory that they take."""
        return sum(values.nbytes for values in self.values.values())

    @contextmanager
    def of(self, samples: Int[Tensor, " sample"]) -> Generator[None]:
        """Run the model on these samples from here on."""
        chosen = {key: values[samples.to(values.device)] for key, values in self.values.items()}
        with self.prefix.skipped(chosen, len(samples)) as missed:
            yield
        if missed:  # and the model took another way
            raise PrefixChanged("what was not used before")


def find_prefix(target: Target, inputs: Samples) -> Prefix | None:
    """The calls to skip, tried out on three samples; None where nothing can be skipped, or it does not pay.

    Verified to the bit: the outputs from there on are those of the whole forward pass.
    """
    model, three = target.model, partial(take, inputs, slice(0, 3))
    if len(target.names) == sum(1 for _ in model.parameters()):
        return None  # whatever multiplies by weights is chosen
    leaves = {n: p.detach().clone().requires_grad_(True) for n, p in target.parameters.items()}
    with frozen(model), torch.no_grad():
        with torch.enable_grad(), _seen(model) as reached:
            target.outputs(three(), leaves)
        free = _not_reached(target, reached)
        if not free:
            return None
        with _seen(model) as few:
            target.called(take(inputs, slice(0, 2)))
        with _seen(model) as calls, FlopCounterMode(display=False) as whole:
            wanted = target.called(three())
        if not [c.module for c in few] == [c.module for c in calls] == [c.module for c in reached]:
            return None
        by_sample = _skippable(free, few, calls)
        prefix = Prefix(target, *_outermost(calls, by_sample), needed=frozenset())
        prefix = _with_needed(prefix, three)
        if prefix is None:
            return None
        kept = {(number, place): leaf.clone() for number, place, leaf in prefix._kept()}
        with FlopCounterMode(display=False) as left, prefix.skipped(kept, 3):
            outputs = target.called(three())
    total, rest = whole.get_total_flops(), left.get_total_flops()
    pays = total - rest >= LEAST_SHARE * total > 0
    return prefix if pays and torch.equal(outputs, wanted) else None


def _not_reached(target: Target, calls: Sequence[_Call]) -> list[int]:
    """Calls that neither hold chosen parameters nor depend on them."""
    chosen = {id(p) for p in target.parameters.values()}
    holds = {
        name: any(id(p) in chosen for p in module.parameters())
        for name, module in target.model.named_modules()
    }
    return [
        number
        for number, call in enumerate(calls)
        if not holds[call.module]
        and not any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in call.leaves)
    ]


def _skippable(
    free: Sequence[int], few: Sequence[_Call], many: Sequence[_Call]
) -> dict[int, list[bool]]:
    """Calls of those whose outputs can be kept, with the leaves that have an entry per sample."""
    calls: dict[int, list[bool]] = {}
    for number in free:
        two, three = few[number], many[number]
        if two.form != three.form:
            continue
        kinds = [_by_sample(a, b) for a, b in zip(two.leaves, three.leaves, strict=True)]
        if None not in kinds and any(isinstance(leaf, Tensor) for leaf in three.leaves):
            calls[number] = [bool(kind) for kind in kinds]
    return calls


def _by_sample(two: Any, three: Any) -> bool | None:
    """Whether a leaf has an entry per sample, or is the same for all; None if neither."""
    if not (isinstance(two, Tensor) and isinstance(three, Tensor)):
        return False if type(two) in (type(None), bool, int, float, str) and two == three else None
    if two.dim() and (len(two), len(three)) == (2, 3) and two.shape[1:] == three.shape[1:]:
        return True
    return False if two.shape == three.shape and torch.equal(two, three) else None


def _outermost(
    calls: Sequence[_Call], by_sample: Mapping[int, list[bool]]
) -> tuple[dict[int, _Call], dict[int, list[bool]], dict[str, list[int | None]]]:
    """Those calls that are in no other of them, and the order of calls once they are skipped."""
    hidden: set[int] = set()
    order: dict[str, list[int | None]] = {}
    chosen: dict[int, _Call] = {}
    for number, call in enumerate(calls):
        if call.inside in hidden or call.inside in chosen:
            hidden.add(number)
            continue
        if number in by_sample:
            chosen[number] = call
        order.setdefault(call.module, []).append(number if number in chosen else None)
    order = {name: numbers for name, numbers in order.items() if set(numbers) != {None}}
    return chosen, {number: by_sample[number] for number in chosen}, order


def _with_needed(prefix: Prefix, inputs: Callable[[], Samples]) -> Prefix | None:
    """The same, with the calls whose outputs are asked for when the model runs without them."""
    needed: set[int] = set()
    while prefix.calls:
        prefix = Prefix(
            prefix.target, prefix.calls, prefix.by_sample, prefix.order, frozenset(needed)
        )
        kept = {(number, place): leaf.clone() for number, place, leaf in prefix._kept()}
        with prefix.skipped(kept, 3) as missed:
            try:
                prefix.target.called(inputs())
            except Exception:  # whatever the model makes of a tensor that refuses
                if not missed:
                    return None
        if not missed:
            return prefix
        needed |= missed
    return None


@contextmanager
def _seen(model: nn.Module, wanted: frozenset[int] | None = None) -> Generator[list[_Call]]:
    """Every call of a module meanwhile, with copies of the outputs of those wanted (None: of all)."""
    calls: list[_Call] = []
    open_: list[int] = []

    def begin(name: str, module: nn.Module, args: Any) -> None:
        calls.append(_Call(name, open_[-1] if open_ else None, []))
        open_.append(len(calls) - 1)

    def end(module: nn.Module, args: Any, output: Any) -> None:
        number = open_.pop()
        if wanted is None or number in wanted:
            leaves, calls[number].form = tree_flatten(output)
            calls[number].leaves = [x.clone() if isinstance(x, Tensor) else x for x in leaves]

    with ExitStack() as stack:
        for name, module in model.named_modules():
            stack.callback(module.register_forward_pre_hook(partial(begin, name)).remove)
            stack.callback(module.register_forward_hook(end).remove)
        yield calls


def _put_back(module: nn.Module, forward: Any) -> None:
    if forward is None:
        del vars(module)["forward"]
    else:
        vars(module)["forward"] = forward


_METADATA = frozenset({
    Tensor.shape.__get__,  # pyright: ignore[reportAttributeAccessIssue]
    Tensor.dtype.__get__,  # pyright: ignore[reportAttributeAccessIssue]
    Tensor.device.__get__,  # pyright: ignore[reportAttributeAccessIssue]
    Tensor.ndim.__get__,  # pyright: ignore[reportAttributeAccessIssue]
    Tensor.requires_grad.__get__,  # pyright: ignore[reportAttributeAccessIssue]
    Tensor.size,
    Tensor.dim,
    Tensor.is_floating_point,
})


class _Absent(Tensor):
    """A tensor that only has shape, type and device."""

    number: int
    """The call that gave it."""
    missed: set[int]
    """Where it notes that its values were wanted."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in _METADATA:
            leaves = tree_flatten((args, kwargs or {}))[0]
            for absent in leaves:
                if isinstance(absent, _Absent):
                    absent.missed.add(absent.number)
            raise PrefixChanged("what was not used before")
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


def _absent(like: Tensor, size: Sequence[int], number: int, missed: set[int]) -> _Absent:
    values = torch.empty((), dtype=like.dtype, device=like.device).expand(size)
    absent = values.as_subclass(_Absent)
    absent.number, absent.missed = number, missed
    return absent
