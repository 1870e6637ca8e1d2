"""A step of fine-tuning along subnetworks against a step of a LoRA of the same ranks, on the same batch.

Prints one JSON line per shape; README.md says how to read it.

    python benchmarks/finetune_step.py [--repetitions N]
"""

import argparse
import copy
import json
import re

import torch
from _lib.shapes import SHAPES, Shape
from _lib.timing import in_turns, wall_over_cpu
from torch import nn
from torch.nn.functional import cross_entropy

from subscape import Decomposition, SteeredModel, Target
from subscape.lowrank import initial_stack, make_layout
from subscape.subnetworks.dictionary import Dictionary
from subscape.subnetworks.selection import BatchTopK

NAMES = ("stories260k", "tinystories-8m")
N_SUBNETWORKS, N_SEQUENCES = 10, 64


def steered(shape: Shape) -> tuple[SteeredModel, dict[str, int]]:
    """The model along 10 random subnetworks, and the rank of each tensor's directions together."""
    target = Target(shape.model, shape.parameters)
    layout = make_layout(target.shapes, shape.rank)
    encoder, decoder = (
        initial_stack(layout, (N_SUBNETWORKS,), torch.Generator().manual_seed(s), target.like)
        for s in (0, 1)
    )
    selection = BatchTopK(1.0, torch.Size([N_SUBNETWORKS]), target.like)
    dictionary = Dictionary(encoder, decoder, selection)
    found = Decomposition(dictionary.requires_grad_(False), target.fingerprint())
    ranks = {
        t.name: min(N_SUBNETWORKS * min(t.ranks), *t.shape)
        for t in layout.tensors
        if len(t.shape) == 2
    }
    return SteeredModel(found, target), ranks


def lora(shape: Shape, ranks: dict[str, int]) -> nn.Module:
    """A copy of the model with a LoRA on the same matrices."""
    import peft

    pattern = {re.escape(name.removesuffix(".weight")): rank for name, rank in ranks.items()}
    config = peft.LoraConfig(target_modules="|".join(pattern), rank_pattern=pattern)
    return peft.get_peft_model(copy.deepcopy(shape.model), config)


def step_of(model: nn.Module, ids: torch.Tensor):
    """Forward, cross entropy of the next token, backward, Adam."""
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)

    def step() -> None:
        logits = model(input_ids=ids).logits
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def compare(name: str, repetitions: int) -> dict[str, object] | None:
    """Time the steps of a shape in turns."""
    shape = SHAPES[name]()
    if shape is None:
        return None
    assert isinstance(shape.data, dict)
    ids = shape.data["input_ids"][:N_SEQUENCES]
    ours, ranks = steered(shape)
    one = dict.fromkeys(ranks, min(ranks.values()) // N_SUBNETWORKS or 1)
    models = {"steered": ours, "lora": lora(shape, ranks), "lora_of_one": lora(shape, one)}
    times = in_turns({key: step_of(model, ids) for key, model in models.items()}, repetitions)
    ms = {key: round(t.ms, 1) for key, t in times.items()}
    trained = {
        key: sum(p.numel() for p in model.parameters() if p.requires_grad)
        for key, model in models.items()
    }
    return {
        "benchmark": "finetune_step",
        "shape": name,
        "subnetworks": N_SUBNETWORKS,
        "ranks": ranks,
        "trained": trained,
        "ms": ms,
        "ratio": round(ms["steered"] / ms["lora"], 2),
        "ratio_to_one": round(ms["steered"] / ms["lora_of_one"], 2),
        "wall_over_cpu": wall_over_cpu(times),
    }


def main() -> None:
    """All shapes."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=9)
    arguments = parser.parse_args()
    for name in NAMES:
        line = compare(name, arguments.repetitions)
        print(json.dumps(line or {"shape": name, "skipped": "set SUBSCAPE_DATA"}), flush=True)


if __name__ == "__main__":
    main()
