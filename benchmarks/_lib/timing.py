"""Time several things in turns, so that whatever else the machine does meets all of them alike."""

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import NamedTuple


class Timing(NamedTuple):
    """Milliseconds a call, medians over the repetitions."""

    wall: float
    """By the clock on the wall."""
    cpu: float
    """Processor time of this process; what `wall` would be on a machine with nothing else to do."""


def in_turns(calls: Mapping[str, Callable[[], object]], repetitions: int) -> dict[str, Timing]:
    """Call everything once to warm up, then A B C A B C …."""
    for call in calls.values():
        call()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(repetitions):
        for name, call in calls.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            found[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: Timing(*(1e3 * median(column) for column in zip(*rows, strict=True)))
        for name, rows in found.items()
    }
