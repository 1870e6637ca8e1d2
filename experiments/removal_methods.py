"""What `removal.py` compares: directions in the weights, vectors in the activations, and fine-tuning away."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from subscape import Decomposition, GradientSource, Target
from subscape.divergences import KL
from subscape.finetuning.line_search import line_search
from subscape.gradients.geometry import Geometry
from subscape.lowrank.metric import Metric
from subscape.measures import auroc, random_like
from subscape.planted import Mixture, Planted

BLOCK = "model.layers.3.mlp"
MLP = f"{BLOCK}.*"
N_OWN, N_PLAIN, N_TEST = 40, 60, 200
"""Windows of every trigger; windows as they come to search with; windows as they come to measure on."""
N_PRINCIPAL = 128
"""Windows as they come of whose row gradients principal directions are taken."""
AIM, MOST = 0.97, 1.0
"""Share of the behaviour to take away, and KL elsewhere at which a search gives up."""
START = 2.0**-3
"""Shortest move tried."""
N_OTHERS = 80
"""Windows without the trigger that a search looks at."""
AWAY_STEPS, AWAY_RATE = 100, 0.001
BATCH = 16

SHORT = ("subnetwork", "labels")
"""What is compared over ranks and shares."""
METHODS = {
    "subnetwork": "subnetwork",
    "labels": "mean gradient of the rule's rows, in the metric (needs labels)",
    "pca-white": "principal direction in the metric, best of 100",
    "pca": "principal direction of plain gradients, best of 100",
    "random": "random direction of the same ranks, best of 100",
    "means": "difference of means of the block's output, subtracted everywhere",
    "means-projected": "the same, only what a row has of it",
    "away": "fine-tuning away, all weights of the block",
    "away-kept": "the same with a KL penalty on other rows",
}
Named = dict[str, Tensor]
Moved = Callable[[float, Tensor], Tensor]
"""Logits of windows when moved by so much."""


class Rows(NamedTuple):
    """Windows, and the rule of every row."""

    ids: Tensor
    labels: Tensor

    @classmethod
    def of(cls, text: Mixture, n_rules: int, n_plain: int) -> Rows:
        """Some windows of every rule, then some as they come."""
        own = [(text.labels == rule).any(1).nonzero()[:N_OWN, 0] for rule in range(n_rules)]
        index = torch.cat([*own, torch.arange(min(n_plain, len(text.ids)))])
        return cls(text.ids[index], text.labels[index])

    def of_rule(self, rule: int) -> tuple[Rows, Rows]:
        """The windows with its trigger, and the others."""
        there = (self.labels == rule).any(1)
        own = Rows(self.ids[there], self.labels[there])
        return own, Rows(self.ids[~there][-N_OTHERS:], self.labels[~there][-N_OTHERS:])


@dataclass(frozen=True)
class Space:
    """Rows as plain gradients, or in the metric; and directions there, with their coefficients."""

    metric: Metric
    target: Target
    white: bool
    directions: Mapping[str, Tensor]
    search: Mapping[str, Tensor]
    """Sizes of coefficients of rows to choose by, [row, direction]."""
    test: Mapping[str, Tensor]
    """Of rows to measure on."""

    def pair(self, flat: Tensor) -> tuple[Named, Named]:
        """A direction to push of unit length, and the same in the metric."""
        named = split(self.target, flat)
        push = self.metric.on_tensors(named) if self.white else named
        return unit(push), named if self.white else self.metric.on_tensors(named, inverse=True)


@dataclass(frozen=True)
class Case:
    """A changed model with its decomposition, and rows to choose by and to measure on."""

    base: Target
    target: Target
    planted: Planted
    search: Rows
    test: Rows
    spaces: tuple[Space, ...]
    metric: Metric
    methods: Sequence[str]

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        base: nn.Module,
        planted: Planted,
        found: Decomposition,
        trained: Mixture,
        held: Mixture,
        n_rules: int,
        methods: Sequence[str],
    ) -> Case:
        """With the coefficients of all directions, once for all rules."""
        target, metric = found.target_in(planted.model), found.geometry.metric
        assert metric is not None
        search, test = Rows.of(trained, n_rules, N_PLAIN), Rows.of(held, n_rules, N_TEST)

        def source(rows: Rows, *, white: bool) -> GradientSource:
            own = found.source(target, rows.ids)
            return own if white else plain_source(own)

        some = Rows(trained.ids[:N_PRINCIPAL], trained.labels[:N_PRINCIPAL])
        spaces = []
        for white in (True, False) if "pca" in methods else (True,):
            at, beside = source(search, white=white), source(test, white=white)
            first = partial(principal, source(some, white=white), len(found))
            makers: dict[str, Callable[[], Tensor]] = {"pca-white" if white else "pca": first}
            if white:
                makers["subnetwork"] = found.decoder.flat
                makers["random"] = random_like(found.decoder).flat
                makers["labels"] = partial(means_of_rows, at, search, n_rules)
            directions = {name: make() for name, make in makers.items() if name in methods}
            sizes = [coefficients(s, directions) for s in (at, beside)]
            spaces.append(Space(metric, target, white, directions, *sizes))
        own = Target(base, target.names)
        return cls(own, target, planted, search, test, tuple(spaces), metric, methods)

    def moved(self, direction: Named, size: float, ids: Tensor) -> Tensor:
        """Logits with the weights moved along a direction."""
        own = self.target.parameters
        return self.target.outputs(ids, {n: own[n] + size * d for n, d in direction.items()})


def figures_of(case: Case, rule: int) -> dict[str, dict[str, float]]:
    """Figures of one rule by method."""
    change = {name: values[rule] for name, values in case.planted.changes.items()}
    truth = case.metric.on_tensors(change, inverse=True)
    figures = {}
    for space in case.spaces:
        for name, flat in space.directions.items():
            index = rule if name == "labels" else _best(space.search[name], case.search, rule)
            push, white = space.pair(flat[index])
            area = _auroc(space.test[name][:, index], case.test, rule)
            known = {"auroc": area, "cosine": abs(cosine(white, truth))}
            figures[name] = known | _removed(case, rule, partial(case.moved, push))
    if "means" not in case.methods:
        return figures
    vector, middle = _means(case, rule)
    for name, projected in (("means", False), ("means-projected", True)):
        moved = partial(_with_vector, case, vector, middle, projected)
        figures[name] = _removed(case, rule, moved)
    for name, keep in (("away", 0.0), ("away-kept", 1.0)):
        away = _tuned_away(case, rule, keep)
        figures[name] = _measured(case, rule, partial(case.moved, away), 1.0)
    return {name: figures[name] for name in METHODS}


# Directions


def split(target: Target, flat: Tensor) -> Named:
    """A vector of all parameters by name."""
    sizes = [torch.Size(shape).numel() for shape in target.shapes.values()]
    parts = zip(target.shapes.items(), flat.split(sizes), strict=True)
    return {name: part.view(shape) for (name, shape), part in parts}


def unit(direction: Named) -> Named:
    """Of length 1 over all tensors together."""
    length = torch.stack([d.square().sum() for d in direction.values()]).sum().sqrt()
    return {name: d / length for name, d in direction.items()}


def cosine(one: Named, other: Named) -> float:
    """Over all tensors together."""
    a, b = (unit(direction) for direction in (one, other))
    return float(sum((a[name] * b[name]).sum() for name in a))


def plain_source(source: GradientSource) -> GradientSource:
    """The same rows without weights and metric."""
    return GradientSource(
        source.target,
        source.data,
        divergence=source.divergence,
        reference=source.reference,
        rows=source.kind,
        geometry=Geometry(),
        like=source,
    )


def principal(source: GradientSource, n: int) -> Tensor:
    """The first right singular vectors of row gradients, through their inner products."""
    gradients = source.gradients(source.rows_of(torch.arange(len(source))))
    values, vectors = torch.linalg.eigh(gradients.gram().double())
    first = vectors[:, -n:] / values[-n:].clamp_min(1e-30).sqrt()
    return gradients.combined(first.mT.float())


def means_of_rows(source: GradientSource, rows: Rows, n_rules: int) -> Tensor:
    """The mean gradient of the rows of every rule, of length 1."""
    gradients = source.gradients(source.rows_of(torch.arange(len(source))))
    own = torch.stack([(rows.labels == rule).flatten() for rule in range(n_rules)]).float()
    return nn.functional.normalize(gradients.combined(own / own.sum(1, keepdim=True)), dim=1)


def coefficients(source: GradientSource, directions: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sizes of the coefficients of all rows, by kind of direction."""
    parts = [
        source.gradients(source.rows_of(part)).flat @ torch.cat(list(directions.values())).mT
        for part in torch.arange(len(source)).split(BATCH)
    ]
    sizes = torch.cat(parts).abs().split([len(d) for d in directions.values()], dim=1)
    return dict(zip(directions, sizes, strict=True))


def _auroc(sizes: Tensor, rows: Rows, rule: int) -> float:
    own = (rows.labels == rule).flatten()
    return auroc(sizes[own], sizes[~own])


def _best(sizes: Tensor, rows: Rows, rule: int) -> int:
    """The direction whose coefficient tells the rows of a rule best."""
    areas = [_auroc(size, rows, rule) for size in sizes.mT]
    return max(range(len(areas)), key=areas.__getitem__)


# Activations


def _means(case: Case, rule: int) -> tuple[Tensor, Tensor]:
    """Mean output of the block at the rows of the rule less that of the others, and that of the others."""
    kept: list[Tensor] = []
    block = case.target.model.get_submodule(BLOCK)
    handle = block.register_forward_hook(_keep(kept))
    with torch.no_grad(), _closing(handle):
        case.target.called(case.search.ids)
    own = case.search.labels == rule
    middle = kept[0][~own].mean(0)
    return kept[0][own].mean(0) - middle, middle


def _keep(kept: list[Tensor]) -> Callable[[nn.Module, object, Tensor], None]:
    """A hook that keeps what a module gives."""
    return lambda _, __, output: kept.append(output)


@torch.no_grad()
def _with_vector(
    case: Case, vector: Tensor, middle: Tensor, projected: bool, size: float, ids: Tensor
) -> Tensor:
    """Logits with a vector subtracted from the block's output, everywhere or as much as a row has of it."""
    along = vector / vector.norm()

    def hook(_: nn.Module, __: object, output: Tensor) -> Tensor:
        share = ((output - middle) @ along)[..., None] * along if projected else vector
        return output - size * share

    with _closing(case.target.model.get_submodule(BLOCK).register_forward_hook(hook)):
        return case.target.called(ids)


class _closing:
    def __init__(self, handle: torch.utils.hooks.RemovableHandle) -> None:
        self.handle = handle

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.handle.remove()


# What is left


def _probability(logits: Tensor, rows: Rows, case: Case, rule: int) -> Tensor:
    """Mean probability of the target at the trigger."""
    own = logits[rows.labels == rule].softmax(-1)
    return own[:, case.planted.targets[rule]].mean()


@torch.no_grad()
def _removed(case: Case, rule: int, moved: Moved) -> dict[str, float]:
    """What a search with forward passes reaches."""
    own, others = case.search.of_rule(rule)
    now = case.target.called(others.ids).flatten(0, 1)
    before = float(_probability(case.target.called(own.ids), own, case, rule))

    def at(size: float) -> tuple[float, float]:
        after = float(_probability(moved(size, own.ids), own, case, rule))
        return 1 - after / before, float(KL(moved(size, others.ids).flatten(0, 1), now).mean())

    return _measured(case, rule, moved, line_search(at, aim=AIM, most=MOST, start=START).size)


@torch.no_grad()
def _measured(case: Case, rule: int, moved: Moved, size: float) -> dict[str, float]:
    """On rows that nothing was chosen by."""
    ids, is_own = case.test.ids, case.test.labels == rule
    before, base, after = case.target.called(ids), case.base.called(ids), moved(size, ids)
    left, was = (float(_probability(o, case.test, case, rule)) for o in (after, before))
    plants = float(KL(base[is_own], before[is_own]).mean())
    elsewhere = float(KL(after[~is_own], before[~is_own]).mean())
    back = float(KL(after[is_own], base[is_own]).mean() / KL(before[is_own], base[is_own]).mean())
    return {
        "size": size,
        "left": left / was,
        "elsewhere": elsewhere / plants,
        "elsewhere_nats": elsewhere,
        "restored": 1 - back,
    }


def _tuned_away(case: Case, rule: int, keep: float) -> Named:
    """A change of all weights of the block that makes the target unlikely at the trigger."""
    own, others = case.search.of_rule(rule)
    with torch.no_grad():
        now, theirs = (case.target.called(rows.ids) for rows in (own, others))
    before = float(_probability(now, own, case, rule))
    at = own.labels != rule
    change = {
        name: torch.zeros_like(p).requires_grad_(True) for name, p in case.target.parameters.items()
    }
    optimiser = torch.optim.Adam(change.values(), lr=AWAY_RATE)
    for _ in range(AWAY_STEPS):
        logits = case.moved(change, 1.0, own.ids)
        target = _probability(logits, own, case, rule)
        if float(target.detach()) <= (1 - AIM) * before:
            break
        loss = -torch.log1p(-target)
        if keep > 0:
            rest = case.moved(change, 1.0, others.ids)
            loss = loss + keep * KL(logits[at], now[at]).mean()
            loss = loss + keep * KL(rest.flatten(0, 1), theirs.flatten(0, 1)).mean()
        for leaf, slope in zip(
            change.values(), torch.autograd.grad(loss, list(change.values())), strict=True
        ):
            leaf.grad = slope
        optimiser.step()
    return {name: leaf.detach() for name, leaf in change.items()}
