"""Pushing along a direction until the rows it is for have moved: how much more do they move than the others?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median_low

import torch
from torch import Tensor

from subscape._shapes import Bool, Float, Int
from subscape.data import Samples, take, to_device
from subscape.divergences import Divergence
from subscape.gradients import GradientSource
from subscape.lowrank import Stack
from subscape.measures.rows import moved_by
from subscape.measures.two_sets import auroc
from subscape.targets import Target

TOP_SHARE, LEAST = 0.01, 5
"""Of the rows are those that a direction is for, at least so many."""
FARTHEST = 1e3
BATCH = 64
"""Samples of a forward pass."""


@dataclass(frozen=True)
class Push:
    """What one direction does at the δ at which the median change of its top rows is what is aimed at."""

    delta: float
    """That δ."""
    ratio: float
    """Median change of the top rows over that of the others."""
    auroc: float
    """How well the change tells the top rows from the others."""
    share: float
    """Of all change falls on the top rows."""


@dataclass(frozen=True)
class Scene:
    """Rows whose outputs are watched."""

    target: Target
    """The model and its parameters."""
    samples: Samples
    """Samples, every row of each."""
    per_sample: int
    """Places of a sample: its positions where each is a row or padding, else one."""
    place: Int[Tensor, " row"]
    """Place of every row."""
    divergence: Divergence
    """Between outputs."""
    aim: float
    """Median change of the top rows to aim at."""
    own: Float[Tensor, "place *output"]
    """The model's own outputs."""

    @classmethod
    def of(cls, source: GradientSource, samples: Tensor, aim: float) -> Scene:
        """All rows of some samples of a source."""
        divergence, chosen = source.divergence.of_changes, take(source.data, samples)
        per_sample = source.draws.per_sample
        place = source.rows_of(samples).place
        scene = cls(source.target, chosen, per_sample, place, divergence, aim, torch.empty(0))
        own = scene.outputs(torch.arange(len(samples)), {})
        return replace(scene, own=own.flatten(0, 1))

    @torch.no_grad()
    def outputs(
        self, at: Tensor, changed: Mapping[str, Tensor]
    ) -> Float[Tensor, "sample place *output"]:
        """Outputs of some samples with other parameters."""
        device = self.target.like.device
        parts = [
            self.target.outputs(to_device(take(self.samples, some), device), changed)
            for some in at.split(BATCH)
        ]
        whole = torch.cat(parts).to(self.target.like.dtype)
        return whole if self.per_sample > 1 else whole[:, None]

    def moved(
        self, direction: Mapping[str, Tensor], delta: float, at: Tensor
    ) -> Float[Tensor, "sample place"]:
        """Change of the outputs of some samples, mean over both signs of δ."""
        own = self.own.unflatten(0, (-1, self.per_sample))[at].flatten(0, 1)
        both = []
        for sign in (1, -1):
            changed = self.target.moved(moved_by(direction, sign * delta))
            outputs = self.outputs(at, changed).flatten(0, 1)
            both.append(self.divergence(outputs, own) - self.divergence(own, own))
        return torch.stack(both).mean(0).view(len(at), self.per_sample)


def pushed(scene: Scene, directions: Stack, sizes: Float[Tensor, "row direction"]) -> list[Push]:
    """Push along each direction; those that cannot move their rows so far are left out."""
    n_top = n_top_of(len(scene.place))
    found = []
    for k in range(sizes.shape[1]):
        direction = directions.select(k).dense()
        top = torch.zeros(len(scene.own), dtype=torch.bool)
        top[scene.place[sizes[:, k].topk(n_top).indices.cpu()]] = True
        one = push(scene, direction, top)
        if one is not None:
            found.append(one)
    return found


def n_top_of(n_rows: int) -> int:
    """How many rows a direction is for."""
    return min(max(LEAST, round(TOP_SHARE * n_rows)), n_rows - 1)


def push(scene: Scene, direction: Mapping[str, Tensor], top: Bool[Tensor, " place"]) -> Push | None:
    """Push along one direction; None if nothing moves its top rows so far."""
    by_sample = top.view(-1, scene.per_sample)
    some = by_sample.any(1).nonzero()[:, 0]
    inside = by_sample[some]

    def size(delta: float) -> float:
        return float(scene.moved(direction, delta, some).cpu()[inside].median())

    delta = delta_at(size, scene.aim)
    if delta is None:
        return None
    change = scene.moved(direction, delta, torch.arange(len(by_sample))).flatten().cpu()
    change, top = change[scene.place], top[scene.place]
    if not bool(torch.isfinite(change).all()):
        return None
    rest = change[~top]
    ratio = float(change[top].median() / rest.median().clamp_min(1e-12))
    return Push(delta, ratio, auroc(change[top], rest), float(change[top].sum() / change.sum()))


def delta_at(size: Callable[[float], float], aim: float) -> float | None:
    """How far to push until the median change is what is aimed at, within 5 %; None where it never is."""
    low, high, delta = 0.0, float("inf"), 1.0
    for _ in range(30):
        value = size(delta)
        if abs(value - aim) < 0.05 * aim:
            return delta
        low, high = (delta, high) if value < aim else (low, delta)
        # Near zero the change grows with the square of how far one goes.
        guess = delta * (aim / max(value, aim / 100)) ** 0.5
        inside = low < guess < high
        delta = guess if inside else (low * high) ** 0.5 if low > 0 and high < 1e9 else guess
        if not delta <= FARTHEST:
            return None
    return None


def middle(pushes: Sequence[Push]) -> tuple[float | None, float | None, float | None]:
    """Medians of ratio, AUROC and share, the lower of two."""
    if not pushes:
        return None, None, None
    names = ("ratio", "auroc", "share")
    ratio, area, share = (median_low(getattr(p, name) for p in pushes) for name in names)
    return ratio, area, share
