"""Products with the active tenth of the (row, subnetwork) pairs only, against the whole dense product.

After batch top-k the coefficients are a tenth full, so the decoder's gradient sᵀ G could be a sparse product.
Prints one JSON line.
"""

import json

import torch
from _lib.timing import in_turns, wall_over_cpu

ROWS, DIRECTIONS, ENTRIES = 256, 200, 65_536
REPETITIONS = 7


def main() -> None:
    """The shapes of one 256 × 256 matrix in `step_vs_training_step.py`."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(ROWS, ENTRIES, generator=generator)
    active = torch.rand(DIRECTIONS, ROWS, generator=generator) < 0.1
    weights = torch.randn(DIRECTIONS, ROWS, generator=generator) * active
    sparse = weights.to_sparse_csr()
    times = in_turns(
        {"dense": lambda: weights @ gradients, "sparse": lambda: sparse @ gradients}, REPETITIONS
    )
    ms = {name: round(t.ms, 1) for name, t in times.items()}
    line = {
        "benchmark": "active_pairs",
        "ms": ms,
        "dense_over_sparse": round(ms["dense"] / ms["sparse"], 2),
        "wall_over_cpu": wall_over_cpu(times),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
