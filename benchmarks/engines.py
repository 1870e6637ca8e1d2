"""Row gradients of a batch by every engine, for models of several kinds.

Prints one JSON line per model and number of rows; README.md says how to read it.
"""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import get_args

import torch
import transformers
from _lib.timing import in_turns, wall_over_cpu
from torch import Tensor, nn

from subscape import GradientSource, Target
from subscape.data import Samples
from subscape.gradients.plan import relative_error
from subscape.gradients.source import EngineName
from subscape.rows import RowKind
from subscape.toys import ToyTraining, tms

ENGINES: list[EngineName] = [engine for engine in get_args(EngineName) if engine != "auto"]
REPETITIONS = 5
QUICK = ToyTraining(n_steps=100, n_candidates=1)
N_SAMPLES = 1024


@dataclass(frozen=True)
class Case:
    """A model with data, and how many rows to ask for at once: a batch, and a block of batches."""

    name: str
    model: nn.Module
    data: Samples
    rows: RowKind
    sizes: tuple[int, int]


def toy(n_features: int, n_hidden: int) -> Case:
    made = tms(n_features=n_features, n_hidden=n_hidden, training=QUICK)
    inputs = made.sample(N_SAMPLES, torch.Generator().manual_seed(0))
    return Case(made.name, made.model, inputs, "sample", (32, N_SAMPLES))


def perceptron() -> Case:
    model = nn.Sequential(nn.Linear(10, 32), nn.GELU(), nn.Linear(32, 32), nn.GELU())
    model.append(nn.Linear(32, 5))
    return Case("mlp-10-32-32-5", model, torch.randn(N_SAMPLES, 10), "sample", (32, N_SAMPLES))


def llama() -> Case:
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=16,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    data: Samples = {"input_ids": torch.randint(0, 64, (256, 16))}
    return Case("llama-2x32", model, data, "sampled-token", (32, 256))


def measure(case: Case, size: int) -> dict[str, object]:
    """Times and errors of all engines on the very same rows; None where an engine refuses the case."""
    sources, setup = {}, {}
    for engine in ENGINES:
        started = time.process_time()
        with suppress(ValueError):
            sources[engine] = source(case, engine)
            setup[engine] = round(1e3 * (time.process_time() - started), 1)
    rows = sources["vmap"].rows(0, size)

    def gradients(engine: EngineName) -> Callable[[], Tensor]:
        return lambda: sources[engine].gradients(rows).flat

    found = {engine: gradients(engine)() for engine in sources}
    loop = found["loop"]
    fast = {engine: gradients(engine) for engine in sources if engine != "loop"}
    times = in_turns(fast, REPETITIONS) | in_turns({"loop": gradients("loop")}, 1)
    return {
        "benchmark": "engines",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "wall_over_cpu": wall_over_cpu(times),
        "model": case.name,
        "parameters": loop.shape[1],
        "rows": size,
        "auto": source(case, "auto").engine,
        "ms": {e: round(times[e].ms, 3) if e in times else None for e in ENGINES},
        "setup_ms": {e: setup.get(e) for e in ENGINES},
        "max_relative_error": {
            e: float(f"{relative_error(g, loop):.2g}") for e, g in found.items() if e != "loop"
        },
    }


def source(case: Case, engine: EngineName) -> GradientSource:
    """The case's rows by one engine; a ValueError where the engine cannot do the case."""
    divergence = "mse" if case.rows == "sample" else "kl"
    target = Target(case.model)
    return GradientSource(target, case.data, divergence=divergence, rows=case.rows, engine=engine)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for case in (toy(5, 2), toy(40, 10), perceptron(), llama()):
        for size in case.sizes:
            print(json.dumps(measure(case, size)), flush=True)


if __name__ == "__main__":
    main()
