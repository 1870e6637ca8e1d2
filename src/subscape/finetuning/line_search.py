"""How far to move until what is wanted has happened: a search along one line, by forward passes only."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

START = 2.0**-6
"""Shortest move tried."""
FACTOR = 2**0.5
"""Between two moves on the way out."""
N_OUT = 48
"""Moves on the way out, to each side."""
N_BISECTIONS = 6


@dataclass(frozen=True)
class Point:
    """What a move does."""

    size: float
    """How far, with its sign."""
    effect: float
    """How much of what is wanted."""
    damage: float
    """How much of what is not."""


def line_search(
    at: Callable[[float], tuple[float, float]],
    *,
    aim: float,
    most: float = math.inf,
    start: float = START,
) -> Point:
    """The shortest move, to either side, that reaches an effect within a damage.

    Args:
        at: effect and damage of a move of some size; neither needs to be monotone.
        aim: effect to reach.
        most: damage allowed.
        start: the shortest move to try.

    Returns:
        The move of least damage that reaches the aim, of one to each side; if neither does, the move of largest
        effect among those tried within the damage allowed, which may be none at all.
    """
    tried = [_one_side(at, sign * start, aim, most) for sign in (1, -1)]
    reached = [best for best in tried if best.effect >= aim]
    if reached:
        return min(reached, key=lambda point: point.damage)
    return max(tried, key=lambda point: point.effect)


def _one_side(
    at: Callable[[float], tuple[float, float]], start: float, aim: float, most: float
) -> Point:
    before = best = Point(0.0, 0.0, 0.0)
    for number in range(N_OUT):
        point = _point(at, start * FACTOR**number)
        if _too_much(point, most):
            # What is allowed of the way from the move before to this one.
            allowed = _bisected(at, before, point, lambda p: _too_much(p, most))[0]
            return max(best, allowed, key=lambda p: p.effect)
        if point.effect >= aim:
            return _bisected(at, before, point, lambda p: p.effect >= aim)[1]
        best, before = max(best, point, key=lambda p: p.effect), point
    return best


def _bisected(
    at: Callable[[float], tuple[float, float]],
    inside: Point,
    outside: Point,
    is_outside: Callable[[Point], bool],
) -> tuple[Point, Point]:
    """The last move before something is so, and the first at which it is."""
    for _ in range(N_BISECTIONS):
        middle = _point(at, (inside.size + outside.size) / 2)
        inside, outside = (inside, middle) if is_outside(middle) else (middle, outside)
    return inside, outside


def _too_much(point: Point, most: float) -> bool:
    return point.damage > most or not math.isfinite(point.damage)


def _point(at: Callable[[float], tuple[float, float]], size: float) -> Point:
    effect, damage = at(size)
    # Outputs that are no numbers any more are the largest damage, and no effect.
    finite = math.isfinite(effect) and math.isfinite(damage)
    return Point(size, effect, damage) if finite else Point(size, -math.inf, math.inf)
