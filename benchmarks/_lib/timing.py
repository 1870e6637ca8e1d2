"""Time several things in turns, so that whatever else the machine does meets all of them alike."""

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import NamedTuple


class Timing(NamedTuple):
    """Medians over the repetitions."""

    ms: float
    """Processor time of one call: with one thread, what the clock shows on an idle machine."""
    wall_ms: float
    """By the clock."""


def in_turns(calls: Mapping[str, Callable[[], object]], repetitions: int) -> dict[str, Timing]:
    """Call everything once to warm up, then A B C A B C …."""
    for call in calls.values():
        call()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(repetitions):
        for name, call in calls.items():
            cpu, wall = time.process_time(), time.perf_counter()
            call()
            found[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return {
        name: Timing(*(1e3 * median(column) for column in zip(*rows, strict=True)))
        for name, rows in found.items()
    }


def wall_over_cpu(times: Mapping[str, Timing]) -> float:
    """How much longer the clock showed, over all: well above 1 on a busy machine."""
    return round(sum(t.wall_ms for t in times.values()) / sum(t.ms for t in times.values()), 2)
