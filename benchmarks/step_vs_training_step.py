"""A decomposition step against an ordinary training step of the same model on the same batch.

Prints one JSON line per shape; README.md says how to read it. A GPU is used where there is one.

    python benchmarks/step_vs_training_step.py [--repetitions N] [SHAPE ...]
"""

import argparse
import json
import sys
from typing import Any

import torch
from _lib.memory import GIB, in_own_process, peak, start_peak
from _lib.shapes import SHAPES, Shape
from _lib.timing import in_turns, wall_over_cpu
from torch import Tensor
from torch.nn.functional import cross_entropy

from subscape import GradientSource, Target
from subscape.data import take, to_device
from subscape.training import Trainer, TrainingConfig
from subscape.training.estimate import estimate

REPETITIONS = 2
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def trainer_of(shape: Shape, batch_size: int | None = None, **settings: Any) -> Trainer:
    """A trainer past the dense warm-up, when only a tenth of the coefficients is active."""
    shape.model.to(DEVICE)
    target = Target(shape.model, shape.parameters)
    source = GradientSource(target, shape.data, divergence="kl", rows=shape.rows)
    config = TrainingConfig(
        n_subnetworks=shape.n_subnetworks,
        rank=shape.rank,
        batch_size=batch_size or shape.batch_size,
        dense_warmup=0.0,
        resample_every=0,
        **settings,
    )
    return Trainer([source], config)


class TrainingStep:
    """Forward and backward pass for the gradient of the block, as training that block alone would do."""

    def __init__(self, shape: Shape, n: int) -> None:
        for parameter in shape.model.parameters():
            parameter.requires_grad_(False)
        target = Target(shape.model, shape.parameters)
        self.model, self.block = shape.model, list(target.parameters.values())
        # Images, or tokens by their name.
        self.batch: Any = to_device(take(shape.data, slice(0, n)), DEVICE)
        self.labels = None if shape.labels is None else shape.labels[:n].to(DEVICE)

    def __call__(self) -> None:
        """Cross-entropy of every position (or image), summed."""
        for parameter in self.block:
            parameter.requires_grad_(True)
        try:
            torch.autograd.grad(self._loss(), self.block)
        finally:
            for parameter in self.block:
                parameter.requires_grad_(False)

    def _loss(self) -> Tensor:
        if self.labels is not None:
            return cross_entropy(self.model(self.batch), self.labels)
        ids = self.batch["input_ids"]
        logits = self.model(**self.batch).logits
        return cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


class SampledTrainingStep(TrainingStep):
    """The same with logits at the last position only: what a row per sequence needs of the model."""

    def _loss(self) -> Tensor:
        logits = self.model(**self.batch, logits_to_keep=1).logits[:, 0]
        return cross_entropy(logits, self.batch["input_ids"][:, 0])


def compare(name: str, repetitions: int) -> dict[str, object] | None:
    """Time the steps of a shape in turns."""
    shape = SHAPES[name]()
    if shape is None:
        return None
    trainer = trainer_of(shape)
    # Steps come in blocks where rows are small: a repetition is a whole number of blocks.
    n_steps = trainer.stream.steps_ahead
    calls = {
        "decomposition": lambda: [synchronised(trainer.step) for _ in range(n_steps)],
        "training": lambda: [
            synchronised(TrainingStep(shape, shape.batch_size)) for _ in range(n_steps)
        ],
    }
    if shape.rows != "sample":
        calls["training_sampled"] = lambda: [
            synchronised(SampledTrainingStep(shape, shape.batch_size)) for _ in range(n_steps)
        ]
    times = in_turns(calls, repetitions)
    ms = {key: round(t.ms / n_steps, 1) for key, t in times.items()}
    memory = {} if DEVICE.type == "cuda" else peaks(name)
    return {
        "benchmark": "step_vs_training_step",
        "shape": name,
        "device": torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu, one thread",
        "rows": shape.batch_size,
        "subnetworks": shape.n_subnetworks,
        "ms": ms,
        "ratio": round(ms["decomposition"] / ms["training"], 2),
        "ratio_to_sampled": round(ms["decomposition"] / ms["training_sampled"], 2)
        if "training_sampled" in ms
        else None,
        **memory,
        "wall_over_cpu": wall_over_cpu(times),
    }


def synchronised(call) -> None:
    """Call, and wait for the device."""
    call()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def peaks(name: str) -> dict[str, object]:
    """Peak memory of both steps above the loaded model, each in a process of its own."""
    found = {kind: in_own_process(__file__, "peak", name, kind) for kind in ("ours", "training")}
    return {
        "peak_gib": {kind: round(f["above"] / GIB, 2) for kind, f in found.items()},
        "estimated_gib": round(found["ours"]["estimated"] / GIB, 2),
    }


def peak_of(name: str, kind: str) -> dict[str, float]:
    """Peak memory of one kind of step above the loaded model."""
    shape = SHAPES[name]()
    assert shape is not None
    before, estimated = start_peak(), 0
    if kind == "ours":
        trainer = trainer_of(shape)
        for _ in range(2):
            trainer.step()
        found = estimate(trainer.sources[0], trainer.config)
        estimated = found.total - found.model
    else:
        step = TrainingStep(shape, shape.batch_size)
        for _ in range(2):
            step()
    return {"above": peak() - before, "estimated": estimated}


def main() -> None:
    """All shapes, or those named."""
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["peak"]:
        print(json.dumps(peak_of(*sys.argv[2:])))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shapes", nargs="*", choices=[*SHAPES, []], default=[])
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    arguments = parser.parse_args()
    for name in arguments.shapes or SHAPES:
        line = compare(name, arguments.repetitions)
        print(json.dumps(line or {"shape": name, "skipped": "set SUBSCAPE_DATA"}), flush=True)


if __name__ == "__main__":
    main()
