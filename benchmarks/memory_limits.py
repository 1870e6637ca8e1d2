"""Memory where it matters: 4,096 rows a step against 256, and 1,000 subnetworks of a 124M-parameter model.

The two numbers of rows have the same `memory_gib`, so that more rows are made in micro-batches. Two steps
each, in a process of its own; prints one JSON line per case. README.md says how to read it. Takes minutes.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from _lib.memory import GIB, in_own_process, peak, start_peak
from _lib.shapes import Shape, gpt2_mlp, tinystories_8m
from step_vs_training_step import trainer_of

N_STEPS = 2
BUDGET = 1.0
"""GiB for rows where rows are compared."""
CASES: dict[str, Callable[[], Shape]] = {
    "tinystories-8m, 256 rows": tinystories_8m,
    "tinystories-8m, 4096 rows": lambda: replace(tinystories_8m(), batch_size=4096),
    "gpt2-small-mlp, 1000 subnetworks": lambda: gpt2_mlp(1000),
}


def run(case: str) -> dict[str, float]:
    """Peak memory of some steps, above the loaded model and in all, and the time of one."""
    shape = CASES[case]()
    loaded = start_peak()
    settings: dict[str, Any] = {"memory_gib": BUDGET} if " rows" in case else {}
    trainer = trainer_of(shape, **settings)
    started = time.perf_counter()
    for _ in range(N_STEPS):
        trainer.step()
    seconds = (time.perf_counter() - started) / N_STEPS
    return {"above": peak() - loaded, "in_all": peak(), "seconds": seconds}


def main() -> None:
    """All cases, one after the other."""
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["run"]:
        print(json.dumps(run(sys.argv[2])))
        return
    for case in CASES:
        found = in_own_process(__file__, "run", case)
        line = {
            "benchmark": "memory_limits",
            "case": case,
            "peak_gib": {key: round(found[key] / GIB, 2) for key in ("above", "in_all")},
            "seconds_a_step": round(found["seconds"], 1),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
