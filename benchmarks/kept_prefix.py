"""A step with activations in front of the chosen block kept, against the same step without; prints JSON lines.

python benchmarks/kept_prefix.py [efficientnet-lite0] [gpt2-late]
"""

import json
import sys
import time
from typing import Any

import torch
from _lib.timing import in_turns, wall_over_cpu
from torch import nn

from subscape import GradientSource, Target
from subscape.rows import RowKind
from subscape.training import Trainer, TrainingConfig

REPETITIONS = 3
GIB = 2**30


def separable(inner: int, out: int, kernel: int, stride: int, given: int) -> nn.Module:
    """A block of EfficientNet-Lite: widened pointwise, filtered by channel, narrowed pointwise."""
    parts = [nn.Conv2d(given, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6(True)]
    layers = [
        *(parts if inner != given else []),
        nn.Conv2d(inner, inner, kernel, stride, kernel // 2, groups=inner, bias=False),
        nn.BatchNorm2d(inner),
        nn.ReLU6(True),
        nn.Conv2d(inner, out, 1, bias=False),
        nn.BatchNorm2d(out),
    ]
    block = nn.Sequential(*layers)
    return Residual(block) if given == out and stride == 1 else block


class Residual(nn.Module):
    """A block beside the identity."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of both."""
        return x + self.block(x)


def efficientnet() -> tuple[nn.Module, Any, str, RowKind]:
    """An EfficientNet-Lite0 with random weights on images of 224 × 224; block 12 of 16."""
    torch.manual_seed(0)
    blocks, given = [], 32
    for expand, out, n, stride, kernel in (
        (1, 16, 1, 1, 3),
        (6, 24, 2, 2, 3),
        (6, 40, 2, 2, 5),
        (6, 80, 3, 2, 3),
        (6, 112, 3, 1, 5),
        (6, 192, 4, 2, 5),
        (6, 320, 1, 1, 3),
    ):
        for number in range(n):
            blocks.append(
                separable(expand * given, out, kernel, stride if number == 0 else 1, given)
            )
            given = out
    model = nn.Sequential()
    stem = [nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6(True)]
    model.add_module("stem", nn.Sequential(*stem))
    model.add_module("blocks", nn.Sequential(*blocks))
    top = [nn.Conv2d(320, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6(True)]
    model.add_module("top", nn.Sequential(*top, nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    model.add_module("classifier", nn.Linear(1280, 1000))
    return model.eval(), torch.randn(64, 3, 224, 224), "blocks.12", "sample"


def gpt2() -> tuple[nn.Module, Any, str, RowKind]:
    """A transformer as deep and wide as GPT-2 small, random weights, 1,000 words; the MLP of layer 10 of 12."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=1000, bos_token_id=0, eos_token_id=0)).eval()
    data = {"input_ids": torch.randint(0, 1000, (128, 64))}
    return model, data, "transformer.h.10.mlp", "sampled-token"


SHAPES = {"efficientnet-lite0": efficientnet, "gpt2-late": gpt2}


def measured(name: str) -> dict[str, Any]:
    """Both steps of one shape, and their gradients compared."""
    model, data, parameters, rows = SHAPES[name]()
    config = TrainingConfig(
        n_subnetworks=20, rank=2, l0=2, steps=1000, batch_size=32, dense_warmup=0.0
    )
    trainers, kept, filled = {}, 0, 0.0
    for way in ("whole", "kept"):
        target = Target(model, parameters)
        source = GradientSource(target, data, divergence="kl", rows=rows, reference="uniform")
        if way == "kept":
            started = time.process_time()
            source.keep_prefix(2 * GIB)
            assert source.kept is not None
            kept, filled = source.kept.bytes, time.process_time() - started
        trainers[way] = Trainer([source], config)
    one, other = (t.sources[0].gradients(t.sources[0].rows(0, 32)).flat for t in trainers.values())
    times = in_turns({way: t.step for way, t in trainers.items()}, REPETITIONS)
    return {
        "shape": name,
        "parameters": parameters,
        "ms": {way: round(t.ms, 1) for way, t in times.items()},
        "ratio": round(times["whole"].ms / times["kept"].ms, 2),
        "kept_mib": round(kept / 2**20, 2),
        "filled_in_steps": round(1e3 * filled / times["whole"].ms, 1),
        "difference": float((one - other).norm() / one.norm()),
        "wall_over_cpu": wall_over_cpu(times),
    }


def main() -> None:
    """All shapes, or those named."""
    torch.set_num_threads(1)
    for name in sys.argv[1:] or SHAPES:
        print(json.dumps({"benchmark": "kept_prefix", **measured(name)}), flush=True)


if __name__ == "__main__":
    main()
