"""All blocks of a GPT-2 small in one pass, and how memory grows with the number of subnetworks.

Prints one JSON line for the model and one for every number of subnetworks; README.md says how to read them.

    python benchmarks/whole_model.py [blocks] [growth [NUMBER ...]]
"""

import json
import math
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from _lib.memory import GIB, in_own_process, peak, start_peak
from _lib.shapes import data_folder, stories260k
from _lib.timing import in_turns, wall_over_cpu
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from subscape import Decomposition, GradientSource, Target, measure, write_report
from subscape.lowrank import Stack
from subscape.measures import Impact
from subscape.measures.card import Scene
from subscape.subnetworks.evaluation import calibrate, evaluate
from subscape.training import Trainer, TrainingConfig
from subscape.training.blocks import prepare_blocks
from subscape.training.estimate import estimate
from subscape.training.together import step_together, trainers_of

ROWS, TOKENS = 64, 32
"""Windows of a step, one row each, and tokens of a window."""
N_SUBNETWORKS, RANK = 200, 4
NUMBERS = (1_000, 4_000, 16_000)
REPETITIONS = 2
MIB = 2**20
LITTLE: dict[str, Any] = {
    **dict(n_rows=256, n_references=1, n_top=1, n_others=2),
    **dict(n_outputs=1, n_deltas=1, n_partners=1),
}
"""What is measured of a subnetwork."""
PUSHED = 4
"""Subnetworks that are pushed: one after the other, so that thousands take hours and no more memory."""


def blocks() -> dict[str, Any]:
    """A step of all 24 blocks, and a forward and backward pass of the same batch through the model."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config()).eval()
    data = {"input_ids": torch.randint(0, 50257, (4 * ROWS, TOKENS))}
    start_peak()
    prepared = prepare_blocks(
        model,
        data,
        blocks=["transformer.h.*.attn", "transformer.h.*.mlp"],
        rows="sampled-token",
        divergence="kl",
        recipe="published",
        n_subnetworks=N_SUBNETWORKS,
        rank=RANK,
        batch_size=ROWS,
        dense_warmup=0.0,
        resample_every=0,
    )
    trainers = trainers_of(prepared.sources("source"), prepared.config)
    parameters = list(prepared.whole.target.parameters.values())
    ids = data["input_ids"][:ROWS]

    def training(**options: int) -> None:
        logits = model(input_ids=ids, **options).logits
        loss = cross_entropy(logits.flatten(0, 1), ids[:, -logits.shape[1] :].flatten())
        torch.autograd.grad(loss, parameters)

    step_together(trainers)
    in_all = peak()
    calls = {
        "decomposition": lambda: step_together(trainers),
        "training": training,
        "training_sampled": lambda: training(logits_to_keep=1),
    }
    times = in_turns(calls, REPETITIONS)
    ms = {name: round(t.ms) for name, t in times.items()}
    return {
        "blocks": len(trainers),
        "subnetworks": N_SUBNETWORKS * len(trainers),
        "rank": RANK,
        "rows": f"{ROWS} windows of {TOKENS} tokens, one row each",
        "micro_batches": -(
            -ROWS // (next(iter(trainers.values())).stream.micro_batch_size or ROWS)
        ),
        "ms": ms,
        "ratio": round(ms["decomposition"] / ms["training"], 2),
        "ratio_to_sampled": round(ms["decomposition"] / ms["training_sampled"], 2),
        "peak_gib": round(in_all / GIB, 2),
        "estimated_gib": round(prepared.estimate().total / GIB, 2),
        "wall_over_cpu": wall_over_cpu(times),
    }


class Largest(TorchDispatchMode):
    """Watches for the largest tensor, and for the largest that has the square of a number of entries."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n, self.bytes, self.squared = n, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Every operation of torch passes here."""
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage().nbytes()
                self.bytes = max(self.bytes, storage)
                # A square of directions has their number, or a multiple of it, along two axes.
                along = sum(size % self.n == 0 and size > 0 for size in tensor.shape)
                if along > 1:
                    self.squared = max(self.squared, tensor.numel() * tensor.element_size())
        return out


@contextmanager
def few_pushed() -> Generator[None]:
    """`measure` with `PUSHED` subnetworks pushed, and of the others all that one pass over the data tells."""
    module: Any = import_module("subscape.measures.measure")
    card = module.card

    def one(scene: Scene, k: int, way: Stack, beside: Stack, found: Impact, idle: Tensor) -> Any:
        top = found.top[k]
        still = (*found.top[:k], replace(top, impact=0 * top.impact), *found.top[k + 1 :])
        of = found if k < PUSHED else replace(found, top=still)
        return card(scene, k, way, beside, of, idle)

    module.card = one
    try:
        yield
    finally:
        module.card = card


def growth(n: int) -> dict[str, Any]:
    """Two steps and a resampling between them, an evaluation, measures and a report of so many subnetworks."""
    shape = stories260k()
    assert shape is not None
    loaded = start_peak()
    target = Target(shape.model, shape.parameters)
    source = GradientSource(target, shape.data, divergence="kl", rows="token", reference="mean")
    config = TrainingConfig(
        n_subnetworks=n, rank=2, l0=5.0, steps=4, dense_warmup=0.25, resample_every=1
    )
    with Largest(n) as seen:
        trainer = Trainer([source], config)
        trainer.step()
        trainer.config = replace(trainer.config, resample_every=0)
        trainer.step()
        dictionary = trainer.dictionary.select(0).select(0)
        size, parts = config.batch_size, trainer.stream.micro_batch_size
        amount = {"n_rows": size, "batch_size": size, "micro_batch_size": parts}
        evaluate(source, dictionary, **amount)
        calibrate(dictionary, source, **amount)
        trained = peak()
        del trainer
        settings = {"rows": "token", "divergence": "kl", "reference": "mean"}
        made = Decomposition(dictionary, target.fingerprint(), settings)
        with few_pushed():
            found = measure(made, target, shape.data, **LITTLE, progress=False)
        with TemporaryDirectory() as folder:
            page = write_report(Path(folder) / "page.html", made, found, title="growth")
            page_bytes = page.stat().st_size
    return {
        "above": peak() - loaded,
        "trained": trained - loaded,
        "in_all": peak(),
        "page": page_bytes,
        "estimated": estimate(source, config).total,
        "largest": seen.bytes,
        "squared": seen.squared,
    }


def main() -> None:
    """Both parts, or those named; every case in a process of its own."""
    torch.set_num_threads(1)
    match sys.argv[1:]:
        case ["run", "blocks"]:
            print(json.dumps(blocks()))
            return
        case ["run", n]:
            print(json.dumps(growth(int(n))))
            return
    numbers = tuple(int(n) for n in sys.argv[1:] if n.isdigit()) or NUMBERS
    parts = sys.argv[1:] or ["blocks", "growth"]
    if "blocks" in parts:
        line = in_own_process(__file__, "run", "blocks")
        print(json.dumps({"benchmark": "whole_model", **line}), flush=True)
    if "growth" not in parts:
        return
    if data_folder() is None:
        print(json.dumps({"benchmark": "whole_model", "skipped": "growth: set SUBSCAPE_DATA"}))
        return
    peaks = []
    for n in numbers:
        found = in_own_process(__file__, "run", str(n))
        peaks.append(found["above"])
        line = {
            "benchmark": "whole_model",
            "subnetworks": n,
            "peak_gib": {key: round(found[key] / GIB, 2) for key in ("trained", "above", "in_all")},
            "page_mb": round(found["page"] / 1e6, 1),
            "estimated_gib": round(found["estimated"] / GIB, 2),
            "largest_tensor_mib": round(found["largest"] / MIB, 1),
            "largest_squared_mib": round(found["squared"] / MIB, 1),
        }
        if len(peaks) > 1:
            grown = math.log(peaks[-1] / peaks[-2]) / math.log(n / numbers[len(peaks) - 2])
            line["exponent"] = round(grown, 2)
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
