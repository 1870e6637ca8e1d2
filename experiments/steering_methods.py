"""What `steering.py` compares: moves of a model, each learned from the same examples, and what they do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from subscape import Decomposition, Target
from subscape.divergences import KL
from subscape.finetuning.downhill import cut_to_ranks, downhill
from subscape.lowrank import Stack
from subscape.lowrank.combination import Combination
from subscape.measures import random_like

AIM = 0.5
"""Nats by which the log-probability of the targets is to change at the rows meant."""
SHORT, STEPS, BATCH = 5.0, 60, 24
"""Weight of what is missing from the aim beside the KL elsewhere; steps of Adam; windows of each kind in one."""
N_FEW = 10
N_CURVED, DAMPING = 64, 0.1
"""Windows of plain text for the curvature of the damage; share of its mean that is added to it."""
LOW, HIGH, TOO_MUCH = -8, 14, 3.0
"""Moves tried, as powers of √2 times the one that a straight line says; the KL at which to stop."""

Moved = Callable[[float, Tensor], Tensor]
"""Logits of windows when moved by so much."""
Named = dict[str, Tensor]


class Behaviour(NamedTuple):
    """Where one of `rows` comes next, make `targets` likelier (+1), or less likely (−1)."""

    rows: tuple[str, ...]
    targets: tuple[str, ...]
    sign: int = 1


BEHAVIOURS = {
    "she → he": Behaviour((" she",), (" he",)),
    "he → she": Behaviour((" he",), (" she",)),
    "She → He": Behaviour((" She",), (" He",)),
    "He → She": Behaviour((" He",), (" She",)),
    "her → his": Behaviour((" her",), (" his",)),
    "his → her": Behaviour((" his",), (" her",)),
    "Tim, Timmy → Lily": Behaviour((" Tim", " Timmy"), (" Lily",)),
    "Lily → Tim, Timmy": Behaviour((" Lily",), (" Tim", " Timmy")),
    "big → little": Behaviour((" big",), (" little",)),
    "little → big": Behaviour((" little",), (" big",)),
    "no happy": Behaviour((" happy",), (" happy",), -1),
    "no mom": Behaviour((" mom",), (" mom",), -1),
}


class Method(NamedTuple):
    """A line of the table."""

    title: str
    """In words."""
    trained: int | None
    """Numbers that are learned; None for all of a LoRA's."""


METHODS = {
    "one": Method("one subnetwork", 1),
    "ten": Method("10 subnetworks", N_FEW),
    "ten-kept": Method("10 subnetworks, KL penalty", N_FEW),
    "all-kept": Method("100 subnetworks, KL penalty", 100),
    "ten-newton": Method("10 subnetworks, one Newton step", N_FEW),
    "all-newton": Method("100 subnetworks, one Newton step", 100),
    "vector": Method("steering vector, the block's output", 0),
    "vector-residual": Method("steering vector, residual stream", 0),
    "lora": Method("LoRA of the same ranks", None),
    "lora-kept": Method("LoRA, KL penalty", None),
    "gradient": Method("plain gradient, cut to the same ranks", 0),
    "gradient-metric": Method("gradient in the metric, cut to the same ranks", 0),
    "random": Method("random subnetwork of the same ranks", 1),
}


@dataclass(frozen=True)
class Windows:
    """Windows of text, with the rows meant, and the model's own logits."""

    ids: Tensor
    meant: Tensor
    own: Tensor

    def some(self, index: Tensor) -> Windows:
        """Some of them."""
        return Windows(self.ids[index], self.meant[index], self.own[index])


@dataclass(frozen=True)
class Task:
    """One behaviour, with examples to learn from and text to measure on."""

    found: Decomposition
    target: Target
    targets: Tensor
    sign: int
    examples: Windows
    """Windows with the rows meant."""
    opposite: Windows
    """Windows with rows that are as those meant are to be, for steering vectors."""
    others: Windows
    """Plain text, for the penalty."""
    held: Windows
    """Not learned from: windows with the rows meant, then plain text."""
    seed: int

    def moved(self, change: Named, size: float, ids: Tensor) -> Tensor:
        """Logits with the weights moved."""
        own = self.target.parameters
        return self.target.outputs(ids, {n: own[n] + size * d for n, d in change.items()})

    def effect(self, logits: Tensor, windows: Windows) -> Tensor:
        """Mean change of the log-probability of the targets at the rows meant, in the direction asked for."""
        now, before = (self._log(o[windows.meant]) for o in (logits, windows.own))
        return self.sign * (now - before).mean()

    def loss(self, logits: Tensor, windows: Windows) -> Tensor:
        """Of the targets at the rows meant."""
        now = self._log(logits[windows.meant])
        return -now.mean() if self.sign > 0 else -torch.log1p(-now.exp().clamp_max(1 - 1e-6)).mean()

    def slope(self) -> Named:
        """The gradient of the effect by the weights, on the examples."""
        leaves = {
            n: p.detach().clone().requires_grad_(True) for n, p in self.target.parameters.items()
        }
        effect = self.effect(self.target.outputs(self.examples.ids, leaves), self.examples)
        gradients = torch.autograd.grad(effect, list(leaves.values()))
        return dict(zip(leaves, gradients, strict=True))

    def given(self) -> tuple[Tensor, Callable[[Tensor, Tensor], Tensor]]:
        """The examples and minus the effect, as fine-tuning takes data and a loss; all in one batch."""
        return self.examples.ids, lambda logits, _: -self.effect(logits, self.examples)

    def _log(self, logits: Tensor) -> Tensor:
        return logits.log_softmax(-1)[:, self.targets].logsumexp(-1)


def moves(task: Task, names: Sequence[str]) -> dict[str, Moved]:
    """What every method makes of the examples: a line along which to move."""
    slope, found = task.slope(), task.found
    metric = found.geometry.metric
    assert metric is not None
    directions = found.directions
    along = torch.stack([_inner(slope, _row(directions, k)) for k in range(len(found))])
    # The damage of a unit direction to second order: ṽ has length 1 in the metric.
    lengths = metric.to_push(found.decoder).norms().square().sum(-1).sqrt()
    best = (along * lengths).abs().argsort(descending=True)[:N_FEW]
    place = _block_of(found)
    layer = place.rpartition(".")[0]
    makers: dict[str, Callable[[], Moved]] = {
        "one": lambda: _line(task, _most_selective(task, directions, along, best)),
        "ten": lambda: _learned(task, _coefficients(directions, best), kept=False),
        "ten-kept": lambda: _learned(task, _coefficients(directions, best), kept=True),
        "all-kept": lambda: _learned(
            task, _coefficients(directions, torch.arange(len(found))), kept=True
        ),
        "ten-newton": lambda: _line(task, _newton(task, directions, along, N_FEW)),
        "all-newton": lambda: _line(task, _newton(task, directions, along, len(found))),
        "vector": lambda: partial(_with_vector, task, place, _difference(task, place)),
        "vector-residual": lambda: partial(_with_vector, task, layer, _difference(task, layer)),
        "lora": lambda: _learned(task, _lora(task), kept=False),
        "lora-kept": lambda: _learned(task, _lora(task), kept=True),
        "gradient": lambda: _line(task, cut_to_ranks(slope, found.layout)),
        "gradient-metric": lambda: _line(task, downhill(found, task.target, *task.given())),
        "random": lambda: _line(task, _random(task, slope)),
    }
    return {name: makers[name]() for name in names}


# Directions in the weights


def _row(stack: Stack, index: int) -> Named:
    return stack.select(index).dense()


def _inner(one: Named, other: Named) -> Tensor:
    return torch.stack([(one[name] * other[name]).sum() for name in one]).sum()


def _times(direction: Named, factor: float) -> Named:
    return {name: factor * d for name, d in direction.items()}


def _random(task: Task, slope: Named) -> Named:
    """Of one random direction the sign that raises the effect."""
    direction = _row(random_like(task.found.directions, seed=task.seed), 0)
    return _times(direction, float(_inner(slope, direction).sign()))


def _most_selective(task: Task, directions: Stack, along: Tensor, some: Tensor) -> Named:
    """Of some subnetworks the one that moves the examples most beside the others, as far as is asked for."""
    best, most = {}, -1.0
    for k in some.tolist():
        push = _times(_row(directions, k), float(along[k].sign()))
        with torch.no_grad():
            size = AIM / float(along[k].abs())
            effect = task.effect(task.moved(push, size, task.examples.ids), task.examples)
            rest = task.others.some(torch.arange(BATCH))
            logits = task.moved(push, size, rest.ids)
            damage = KL(logits.flatten(0, 1), rest.own.flatten(0, 1)).mean()
        # To second order this does not depend on how far it was moved.
        if not best or float(effect / damage.sqrt()) > most:
            best, most = push, float(effect / damage.sqrt())
    return best


def _block_of(found: Decomposition) -> str:
    """The module that holds all tensors."""
    modules = [tensor.name.split(".")[:-1] for tensor in found.layout.tensors]
    same = [level[0] for level in zip(*modules, strict=False) if len(set(level)) == 1]
    return ".".join(same)


def _newton(task: Task, directions: Stack, along: Tensor, n: int) -> Named:
    """The combination of n directions that moves the examples most for the damage to second order.

    That of all is (H + λ)⁻¹ a with H the Gauss-Newton matrix of the KL on plain text; fewer are taken one by one,
    each as the one that adds most.
    """
    curvature = _curvature(task, directions)
    damped = curvature + DAMPING * curvature.diagonal().mean() * torch.eye(len(curvature))
    taken = list(range(len(along)))
    if n < len(along):
        taken = []
        for _ in range(n):
            left = [k for k in range(len(along)) if k not in taken]
            gains = [_gain(damped, along, [*taken, k]) for k in left]
            taken.append(left[int(torch.tensor(gains).argmax())])
    index = torch.tensor(taken)
    values = torch.linalg.solve(damped[index][:, index], along[index])
    return Combination(Stack(directions.layout, directions.weights[index].detach()))(values)


def _gain(damped: Tensor, along: Tensor, taken: list[int]) -> float:
    some = along[taken]
    return float(some @ torch.linalg.solve(damped[taken][:, taken], some))


@torch.no_grad()
def _curvature(task: Task, directions: Stack) -> Tensor:
    """Second derivatives of the mean KL on plain text by the sizes of the directions."""
    ids = task.others.ids[:N_CURVED]
    own = task.target.parameters
    effects = []
    for k in range(directions.weights.shape[0]):
        push = _row(directions, k)
        step = 1e-2 / float(torch.stack([d.square().sum() for d in push.values()]).sum().sqrt())
        plus, minus = (
            task.target.outputs(ids, {n: own[n] + sign * step * d for n, d in push.items()})
            for sign in (1, -1)
        )
        effects.append(((plus - minus) / (2 * step)).flatten(0, 1))
    chances = task.others.own[:N_CURVED].flatten(0, 1).softmax(-1)
    moved = torch.stack(effects)
    moved = (moved - (chances * moved).sum(-1, keepdim=True)) * chances.sqrt()
    flat = moved.flatten(1).double()
    return ((flat @ flat.T) / chances.shape[0]).float()


def _line(task: Task, direction: Named) -> Moved:
    return partial(task.moved, direction)


# Learned


class Learner(NamedTuple):
    """Numbers to learn, and the change of the weights that they make."""

    leaves: list[Tensor]
    change: Callable[[], Named]
    rate: float


def _coefficients(directions: Stack, index: Tensor) -> Learner:
    combination = Combination(Stack(directions.layout, directions.weights[index].detach()))
    values = torch.zeros(len(index), requires_grad=True)
    return Learner([values], lambda: combination(values), 0.05)


def _lora(task: Task) -> Learner:
    generator = torch.Generator().manual_seed(task.seed)
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    ranks = {t.name: t.ranks for t in task.found.layout.tensors}
    for name, (first, second) in task.target.shapes.items():
        n = min(ranks[name])
        down = torch.randn(n, second, generator=generator) / second**0.5
        pairs[name] = torch.zeros(first, n, requires_grad=True), down.requires_grad_(True)
    leaves = [leaf for pair in pairs.values() for leaf in pair]
    return Learner(leaves, lambda: {name: up @ down for name, (up, down) in pairs.items()}, 0.01)


def _learned(task: Task, learner: Learner, *, kept: bool) -> Moved:
    """Adam on the examples: until the aim is reached, or with a penalty for the least damage at which it is."""
    generator = torch.Generator().manual_seed(task.seed)
    optimiser = torch.optim.Adam(learner.leaves, lr=learner.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS if kept else 10 * STEPS)
    for _ in range(STEPS):
        some, rest = (_drawn(w, generator) for w in (task.examples, task.others))
        change = learner.change()
        logits = task.moved(change, 1.0, some.ids)
        effect = task.effect(logits, some)
        if kept:
            theirs = task.moved(change, 1.0, rest.ids)
            damage = KL(theirs.flatten(0, 1), rest.own.flatten(0, 1)).mean()
            loss = SHORT * (AIM - effect).clamp_min(0) + damage
        elif float(effect.detach()) >= AIM:
            break
        else:
            loss = task.loss(logits, some)
        for leaf, slope in zip(
            learner.leaves, torch.autograd.grad(loss, learner.leaves), strict=True
        ):
            leaf.grad = slope
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        return _line(task, {name: d.detach() for name, d in learner.change().items()})


def _drawn(windows: Windows, generator: torch.Generator) -> Windows:
    n = len(windows.ids)
    return windows.some(torch.randperm(n, generator=generator)[:BATCH])


# Activations


class _hooked:
    """A forward hook for a while."""

    def __init__(self, module: nn.Module, change: Callable[[Tensor], Tensor | None]) -> None:
        def hook(_: nn.Module, __: object, output: Tensor | tuple) -> Tensor | tuple | None:
            whole = isinstance(output, Tensor)
            new = change(output if whole else output[0])
            return new if whole or new is None else (new, *output[1:])

        self.handle = module.register_forward_hook(hook)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.handle.remove()


def _difference(task: Task, place: str) -> Tensor:
    """Mean activation of rows as they are to be, less that of the rows meant."""
    means = []
    for windows in (task.opposite, task.examples):
        kept: list[Tensor] = []
        with torch.no_grad(), _hooked(task.target.model.get_submodule(place), kept.append):
            task.target.called(windows.ids)
        means.append(kept[0][windows.meant].mean(0))
    return means[0] - means[1]


@torch.no_grad()
def _with_vector(task: Task, place: str, vector: Tensor, size: float, ids: Tensor) -> Tensor:
    with _hooked(task.target.model.get_submodule(place), lambda output: output + size * vector):
        return task.target.called(ids)


# What a move does


@torch.no_grad()
def curve(task: Task, moved: Moved) -> list[dict[str, float]]:
    """Effect and damage on text that was not learned from, further and further out until past the aim."""
    small = 1e-2
    slope = float(task.effect(moved(small, task.examples.ids), task.examples)) / small
    straight = AIM / slope if slope > 0 else 1.0
    points = []
    for power in range(LOW, HIGH):
        point = _point(task, moved, straight * 2 ** (power / 2))
        points.append(point)
        if point["effect"] > 1.1 * AIM or not point["elsewhere"] < TOO_MUCH:
            break
    return points


def _point(task: Task, moved: Moved, size: float) -> dict[str, float]:
    held = task.held
    logits = moved(size, held.ids)
    change = KL(logits.flatten(0, 1), held.own.flatten(0, 1)).view_as(held.meant)
    other = ~held.meant[:, :-1]
    entropies = [
        nn.functional.cross_entropy(o[:, :-1][other], held.ids[:, 1:][other])
        for o in (logits, held.own)
    ]
    return {
        "size": size,
        "effect": float(task.effect(logits, held)),
        "meant": float(change[held.meant].mean()),
        "elsewhere": float(change[~held.meant].mean()),
        "entropy": float(entropies[0] - entropies[1]),
    }


def at_effect(points: Sequence[Mapping[str, float]], aim: float = AIM) -> dict[str, float] | None:
    """The figures where a curve reaches an effect, on a straight line between its points; None if it does not."""
    return _between(points, "effect", aim)


def at_damage(points: Sequence[Mapping[str, float]], damage: float) -> dict[str, float] | None:
    """The same where it reaches a damage."""
    return _between(points, "elsewhere", damage)


def _between(
    points: Sequence[Mapping[str, float]], figure: str, value: float
) -> dict[str, float] | None:
    still = dict.fromkeys(points[0], 0.0)
    for before, after in zip([still, *points[:-1]], points, strict=True):
        if before[figure] < value <= after[figure]:
            share = (value - before[figure]) / (after[figure] - before[figure])
            return {n: before[n] + share * (after[n] - before[n]) for n in before if n != "size"}
    return None
