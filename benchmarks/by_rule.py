"""Row gradients of recurrent layers by rule, against the loop and against a training step; prints JSON lines.

python benchmarks/by_rule.py
"""

import json
from functools import partial
from typing import Any

import torch
from _lib.timing import in_turns, wall_over_cpu
from torch import nn
from torch.nn.functional import cross_entropy

from subscape import GradientSource, Target

ROWS, STEPS, WIDTH, CLASSES = 64, 32, 64, 10
REPETITIONS = 5


class Reader(nn.Module):
    """A recurrent layer and a readout of its last state."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer, self.readout = layer, nn.Linear(WIDTH, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of the classes."""
        return self.readout(self.layer(x)[0][:, -1])


def measured(kind: type[nn.LSTM] | type[nn.GRU]) -> dict[str, Any]:
    """Row gradients both ways, and the gradient of a training step of the same rows."""
    torch.manual_seed(0)
    model = Reader(kind(WIDTH, WIDTH, num_layers=2, batch_first=True)).eval()
    data, labels = torch.randn(ROWS, STEPS, WIDTH), torch.randint(0, CLASSES, (ROWS,))
    sources = {
        engine: GradientSource(
            Target(model, "layer"), data, divergence="kl", reference="uniform", engine=engine
        )
        for engine in ("rule", "loop")
    }
    rows = sources["rule"].rows(0, ROWS)
    parameters = list(model.layer.parameters())

    def training() -> None:
        torch.autograd.grad(cross_entropy(model(data), labels), parameters)

    calls: dict[str, Any] = {n: partial(s.gradients, rows) for n, s in sources.items()}
    times = in_turns(calls | {"training": training}, REPETITIONS)
    one, other = (source.gradients(rows).flat for source in sources.values())
    return {
        "layer": kind.__name__,
        "ms": {name: round(t.ms, 1) for name, t in times.items()},
        "loop_to_rule": round(times["loop"].ms / times["rule"].ms, 1),
        "rule_to_training": round(times["rule"].ms / times["training"].ms, 2),
        "difference": float((one - other).norm() / other.norm()),
        "wall_over_cpu": wall_over_cpu(times),
    }


def main() -> None:
    """One line for each kind of layer."""
    torch.set_num_threads(1)
    for kind in (nn.LSTM, nn.GRU):
        print(json.dumps({"benchmark": "by_rule", **measured(kind)}), flush=True)


if __name__ == "__main__":
    main()
