"""A training step on TMS 5-2 with the published settings: subscape's `Trainer` against Algorithm 1.

Prints one JSON line; README.md says how to read it.
"""

import json

import torch
from _lib.algorithm1 import Algorithm1
from _lib.timing import in_turns, wall_over_cpu

from subscape import GradientSource, Target
from subscape.lowrank import Stack
from subscape.toys import Toy, ToyTraining, tms
from subscape.training import Trainer, TrainingConfig
from subscape.training.stream import PREFETCH_STEPS

RESTARTS = (1, 8, 32, 100)
REPETITIONS = 9
ALGORITHM_1_STEPS = 8
CHECKED_STEPS = 20
TOLERANCE = 1e-4
PUBLISHED_STEPS = 32_000
SAMPLES, BATCH = 1_000, 32


def config(n_restarts: int) -> TrainingConfig:
    """The published settings, without what the published algorithm lacks: dense warm-up and resampling."""
    return TrainingConfig(
        n_subnetworks=5,
        rank=1,
        active_fraction=0.1,
        steps=PUBLISHED_STEPS,
        batch_size=BATCH,
        learning_rate=0.01,
        schedule="step",
        dense_warmup=0.0,
        n_restarts=n_restarts,
        resample_every=0,
    )


def algorithm_1(toy: Toy, trainer: Trainer) -> Algorithm1:
    """Algorithm 1 from the trainer's own first start."""

    def first(stack: Stack):
        return stack.select(0).select(0).pieces()

    settings = trainer.config
    return Algorithm1(
        toy.model,
        first(trainer.dictionary.encoder),
        first(trainer.dictionary.decoder),
        settings.n_active / settings.n_subnetworks,
        settings.learning_rate,
    )


def loss_differences(toy: Toy, source: GradientSource, inputs: torch.Tensor) -> list[float]:
    """Both from the same start on the same batches: relative difference of the loss, step by step."""
    ours = Trainer([source], config(1))
    theirs = algorithm_1(toy, ours)
    differences = []
    for step in range(CHECKED_STEPS):
        rows = source.rows(step, BATCH)
        reference = source.reference(source.outputs_at(rows), rows)
        loss = theirs.step(inputs[rows.samples], reference).item()
        differences.append(abs(ours.step().fvu.item() - loss) / loss)
    return differences


def run_seconds(ms_per_step: float) -> float:
    """What a published run of 32,000 steps takes at that rate."""
    return round(ms_per_step * PUBLISHED_STEPS / 1e3, 1)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)  # Algorithm 1's random references
    toy = tms(training=ToyTraining(n_steps=500))
    inputs = toy.sample(SAMPLES, torch.Generator().manual_seed(0))
    source = GradientSource(Target(toy.model), inputs)
    differences = loss_differences(toy, source, inputs)
    theirs = algorithm_1(toy, Trainer([source], config(1)))

    def algorithm_1_steps() -> None:
        for _ in range(ALGORITHM_1_STEPS):
            theirs.step(inputs[torch.randperm(SAMPLES)[:BATCH]])

    def whole_block(trainer: Trainer):
        # Gradients are made for a block of batches at once: whole blocks have their share of that.
        return lambda: [trainer.step() for _ in range(PREFETCH_STEPS)]

    calls = {str(n): whole_block(Trainer([source], config(n))) for n in RESTARTS}
    times = in_turns({"algorithm_1": algorithm_1_steps} | calls, REPETITIONS)

    base = times.pop("algorithm_1").ms / ALGORITHM_1_STEPS
    result = {
        "benchmark": "tms_step",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "wall_over_cpu": wall_over_cpu(times),
        "same_step": differences[0] < TOLERANCE,
        "loss_difference_first_step": float(f"{differences[0]:.2g}"),
        f"loss_difference_{CHECKED_STEPS}_steps": float(f"{max(differences):.2g}"),
        "algorithm_1": {"ms_per_step": round(base, 3), "seconds_per_run": run_seconds(base)},
    }
    for n in RESTARTS:
        ms = times[str(n)].ms / PREFETCH_STEPS
        result[f"subscape_{n}"] = {
            "ms_per_step": round(ms, 3),
            "ms_per_restart_step": round(ms / n, 4),
            "seconds_per_run": run_seconds(ms),
            "step_ratio": round(base / ms, 2),
            "restart_step_ratio": round(base * n / ms, 1),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
