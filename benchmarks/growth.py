"""How the time and the memory of a step grow: rows, tokens, subnetworks, rank, width.

A GPT-Neo of 4 layers; from a middle point one size is doubled twice at a time, and an exponent is fitted to
time and to memory above the loaded model. `rows_in_parts` keeps micro-batches to the middle point's rows.
Prints a JSON line per axis; README.md says how to read it.
"""

import json
import math
import sys
import time
from typing import Any

import torch
from _lib.memory import GIB, in_own_process, peak, start_peak
from _lib.shapes import Shape
from step_vs_training_step import trainer_of

from subscape.training.estimate import estimate

MIDDLE = {"rows": 256, "tokens": 16, "subnetworks": 64, "rank": 8, "width": 128}
AXES = {
    "rows": (256, 512, 1024),
    "rows_in_parts": (256, 1024, 4096),
    "tokens": (16, 32, 64),
    "subnetworks": (64, 128, 256),
    "rank": (4, 8, 16),
    "width": (128, 256, 512),
}
STEPS = 2


def shape_of(tokens: int, subnetworks: int, rank: int, width: int, rows: int) -> Shape:
    """A model of the given sizes."""
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    torch.manual_seed(0)
    config = GPTNeoConfig(
        hidden_size=width,
        num_layers=4,
        num_heads=8,
        attention_types=[[["global", "local"], 2]],
        vocab_size=4096,
    )
    model = GPTNeoForCausalLM._from_config(config, attn_implementation="eager").eval()
    data = {"input_ids": torch.randint(0, config.vocab_size, (rows, tokens))}
    return Shape("growth", model, data, "transformer.h.2", "sampled-token", subnetworks, rank, rows)


def measure(axis: str, value: int) -> dict[str, float]:
    """Seconds of a step and peak memory above the model."""
    sizes = dict(MIDDLE)
    sizes["rows" if axis == "rows_in_parts" else axis] = value
    shape = shape_of(**sizes)
    settings: dict[str, Any] = {"memory_gib": 1000.0}
    if axis == "rows_in_parts":
        middle = trainer_of(shape_of(**MIDDLE), **settings)
        whole = estimate(middle.sources[0], middle.config)
        # A budget that just holds the middle point's rows.
        budget = whole.directions + whole.per_row * MIDDLE["rows"] * 1.001
        settings["memory_gib"] = budget / GIB
        del middle
    before = start_peak()
    trainer = trainer_of(shape, **settings)
    trainer.step()
    started = time.process_time()
    for _ in range(STEPS):
        trainer.step()
    seconds = (time.process_time() - started) / STEPS
    return {"seconds": seconds, "above": peak() - before}


def exponent(values: tuple[int, ...], figures: list[float]) -> float:
    """Slope of the least-squares line through the logarithms."""
    x, y = [math.log(v) for v in values], [math.log(f) for f in figures]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return slope / sum((a - mean_x) ** 2 for a in x)


def main() -> None:
    """Every axis, each point in a process of its own."""
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["point"]:
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]))))
        return
    for axis, values in AXES.items():
        points = [in_own_process(__file__, "point", axis, str(value)) for value in values]
        line = {
            "benchmark": "growth",
            "axis": axis,
            "values": values,
            "ms": [round(1e3 * p["seconds"], 1) for p in points],
            "time_exponent": round(exponent(values, [p["seconds"] for p in points]), 2),
            "peak_gib": [round(p["above"] / GIB, 3) for p in points],
            "memory_exponent": round(exponent(values, [max(p["above"], 1.0) for p in points]), 2),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
