"""A decomposition step in other geometries against the same step in the published one.

Prints one JSON line per shape; README.md says how to read it.

    python benchmarks/geometry_step.py [--repetitions N]
"""

import argparse
import json

import torch
from _lib.shapes import SHAPES
from _lib.timing import in_turns, wall_over_cpu

from subscape import GradientSource, Target
from subscape.training import Trainer, TrainingConfig

NAMES = ("stories260k", "tinystories-8m", "resnet20")
GEOMETRIES = {
    "published": {"reference": "another-row"},
    "whitened": {"reference": "mean", "row_weight": 0.5, "metric": "kronecker"},
    "unit": {"reference": "mean", "row_weight": "unit", "metric": "kronecker"},
}


def compare(name: str, repetitions: int) -> dict[str, object] | None:
    """Time the steps of a shape in turns, past the dense warm-up; the metric was estimated before."""
    shape = SHAPES[name]()
    if shape is None:
        return None
    config = TrainingConfig(
        n_subnetworks=shape.n_subnetworks,
        rank=shape.rank,
        batch_size=shape.batch_size,
        dense_warmup=0.0,
        resample_every=0,
    )
    target = Target(shape.model, shape.parameters)
    trainers = {
        geometry: Trainer(
            [GradientSource(target, shape.data, divergence="kl", rows=shape.rows, **settings)],
            config,
        )
        for geometry, settings in GEOMETRIES.items()
    }
    times = in_turns({name: trainer.step for name, trainer in trainers.items()}, repetitions)
    ms = {geometry: round(t.ms, 1) for geometry, t in times.items()}
    return {
        "benchmark": "geometry_step",
        "shape": name,
        "ms": ms,
        "ratio": {name: round(value / ms["published"], 2) for name, value in ms.items()},
        "wall_over_cpu": wall_over_cpu(times),
    }


def main() -> None:
    """All shapes."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    for name in NAMES:
        line = compare(name, arguments.repetitions)
        print(json.dumps(line or {"shape": name, "skipped": "set SUBSCAPE_DATA"}), flush=True)


if __name__ == "__main__":
    main()
