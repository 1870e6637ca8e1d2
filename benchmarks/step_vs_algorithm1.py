"""A decomposition step on a language model against the paper's Algorithm 1, every position a row.

16 sequences of 16 tokens of a TinyStories-8M shape, 256 rows, the attention of block 4. Prints one JSON line;
README.md says how to read it. Algorithm 1 takes minutes a step.
"""

import json
import sys
from dataclasses import replace

import torch
from _lib.algorithm1 import Algorithm1
from _lib.memory import GIB, in_own_process, peak, start_peak
from _lib.shapes import tinystories_8m
from _lib.timing import in_turns, wall_over_cpu
from step_vs_training_step import trainer_of
from torch import Tensor

from subscape.data import Samples, take
from subscape.divergences import KL
from subscape.lowrank import Stack
from subscape.training import Trainer

REPETITIONS = 1
CHUNK = 32
"""Rows that Algorithm 1 sends back side by side, which bounds its memory."""
TOLERANCE = 1e-4


def every_position(model, batch) -> Tensor:
    """Logits of every position of every sequence, one after the other."""
    return model(**batch).logits.flatten(0, 1)


def both() -> tuple[Trainer, Algorithm1, Samples, Tensor]:
    """Both sides from the same start, with the first batch and its references."""
    shape = replace(tinystories_8m(), rows="token")
    trainer = trainer_of(shape)
    # For Algorithm 1: otherwise jacrev keeps the graphs of all its backward passes.
    shape.model.requires_grad_(False)

    def pieces(stack: Stack):
        return stack.select(0).select(0).pieces()

    config = trainer.config
    slow = Algorithm1(
        shape.model,
        pieces(trainer.dictionary.encoder),
        pieces(trainer.dictionary.decoder),
        config.n_active / config.n_subnetworks,
        config.learning_rate,
        outputs=every_position,
        divergence=KL,
        chunk=CHUNK,
    )
    source = trainer.sources[0]
    rows = source.rows(0, config.batch_size)
    inputs = take(source.data, rows.sample_of_each)
    return trainer, slow, inputs, source.reference(source.outputs_at(rows), rows)


def peak_of(kind: str) -> dict[str, float]:
    """Peak memory of a step of one side above the loaded models."""
    trainer, slow, inputs, reference = both()
    before = start_peak()
    if kind == "ours":
        trainer.step()
    else:
        slow.step(inputs, reference)
    return {"above": peak() - before}


def main() -> None:
    """Compare memory, then losses, then time."""
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["peak"]:
        print(json.dumps(peak_of(sys.argv[2])))
        return
    # Before this process holds as much itself.
    peaks = {kind: in_own_process(__file__, "peak", kind)["above"] for kind in ("ours", "theirs")}
    trainer, slow, inputs, reference = both()
    ours = float(trainer.step().fvu.detach())
    theirs = float(slow.loss(inputs, reference).detach())
    difference = abs(ours - theirs) / theirs
    calls = {"subscape": trainer.step, "algorithm_1": lambda: slow.step(inputs, reference)}
    times = in_turns(calls, REPETITIONS)
    line = {
        "benchmark": "step_vs_algorithm1",
        "shape": "tinystories-8m",
        "rows": 256,
        "same_step": difference < TOLERANCE,
        "loss_difference": difference,
        "seconds": {key: round(t.ms / 1e3, 2) for key, t in times.items()},
        "times_faster": round(times["algorithm_1"].ms / times["subscape"].ms, 1),
        "peak_gib": {key: round(value / GIB, 2) for key, value in peaks.items()},
        "memory_ratio": round(peaks["ours"] / peaks["theirs"], 3),
        "wall_over_cpu": wall_over_cpu(times),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
