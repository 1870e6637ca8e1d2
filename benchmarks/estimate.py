"""What `estimate` says a run takes, beside the peak of two steps: a small residual network, by dtype.

Prints one JSON line per dtype and choice of parameters, each in its own process; README.md says how to read it.
"""

import json
import os
import sys

import torch
from _lib.memory import GIB, in_own_process, peak, start_peak
from torch import nn

from subscape import GradientSource, Target
from subscape.training import Trainer, TrainingConfig
from subscape.training.estimate import estimate

WIDTH, IMAGES, SIZE = 32, 512, 32
DTYPES = ("float32", "float64", "bfloat16")
CHOSEN = {"a block": "1", "all": "*"}


class Block(nn.Module):
    """Two convolutions around which the input is led."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(WIDTH)
        self.conv2 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A block's output."""
        hidden = self.norm1(self.conv1(x)).relu()
        return (x + self.norm2(self.conv2(hidden))).relu()


def run(dtype: str, chosen: str) -> dict[str, int]:
    """Estimated and measured bytes above the model."""
    torch.manual_seed(0)
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, 10)
    stem = nn.Conv2d(3, WIDTH, 3, padding=1)
    kind = getattr(torch, dtype)
    model = nn.Sequential(stem, Block(), Block(), *head).eval().to(kind)
    images = torch.randn(IMAGES, 3, SIZE, SIZE).to(kind)
    source = GradientSource(
        Target(model, CHOSEN[chosen]), images, divergence="kl", reference="uniform"
    )
    config = TrainingConfig(
        n_subnetworks=20, rank={"*conv*": (2,) * 4, "*": 1}, l0=2.0, batch_size=256, steps=3
    )
    known = estimate(source, config)
    before = start_peak()
    trainer = Trainer([source], config)
    for _ in range(2):
        trainer.step()
    return {"estimated": known.total - known.model, "peak": peak() - before}


def main() -> None:
    """All cases, one after the other."""
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["run"]:
        print(json.dumps(run(*sys.argv[2:])))
        return
    # What is freed goes back to the system, or the peak is also that of malloc's holes.
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", "1000000")
    for dtype in DTYPES:
        for chosen in CHOSEN:
            found = in_own_process(__file__, "run", dtype, chosen)
            line = {
                "benchmark": "estimate",
                "dtype": dtype,
                "parameters": chosen,
                "estimated_gib": round(found["estimated"] / GIB, 2),
                "peak_gib": round(found["peak"] / GIB, 2),
                "ratio": round(found["estimated"] / found["peak"], 2),
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
