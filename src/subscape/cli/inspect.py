"""`subscape inspect`: the parameters of a model by module, and what decomposing each would take."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Annotated

import tyro
from torch import nn

from subscape._checks import require
from subscape.cli.loading import load_model
from subscape.cli.models import Pooling
from subscape.cli.next_step import then
from subscape.cli.picks import middle_mlp
from subscape.lowrank.layout import RankChoice, make_layout
from subscape.training.config import DEFAULTS

COPIES = 8
"""Of encoder and decoder weights, their gradients and Adam's two moments."""


@dataclass(frozen=True)
class InspectRun:
    """List the parameters of a model by module, and what decomposing each would cost.

    The names are what `subscape decompose --parameters` takes.

    Example: subscape inspect MODEL --depth 4
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A Hugging Face folder or hub id (also transformers:NAME), timm:NAME, torchvision:NAME, or
    package.module:function."""
    outputs: Pooling | None = None
    """For a model that gives a hidden state per token, such as an encoder: take the mean over tokens."""
    depth: int = 4
    """How deep to list modules: at 2 `layers.0` is one line, at 3 `layers.0.mlp` has its own."""
    n_subnetworks: int = 100
    """Number of subnetworks to state the memory for."""
    rank: float | None = None
    """Rank, or share of each dimension, to state it for; by default what decompose would use."""
    json: bool = False
    """Print as JSON."""


@dataclass(frozen=True)
class Line:
    """One module."""

    name: str
    parameters: int
    """Own and those of modules inside."""
    of_a_direction: int
    """Numbers of one low-rank direction."""
    memory_gib: float
    """What all directions take in training."""
    picked: bool
    """Whether decompose takes it by itself."""


def run(settings: InspectRun) -> list[Line]:
    """Carry out the command."""
    require(settings.depth >= 1, "depth", "at least 1", repr(settings.depth))
    rank = settings.rank
    require(rank is None or rank > 0, "rank", "a rank or a share above 0", repr(rank))
    model = load_model(settings.model, pooling=settings.outputs).model
    causal = getattr(model, "can_generate", lambda: False)()
    rank = rank or DEFAULTS["token" if causal else "sample"][0]
    lines = inspected(
        model, settings.depth, int(rank) if rank >= 1 else rank, settings.n_subnetworks
    )
    if settings.json:
        print(json.dumps([asdict(line) for line in lines]))
        return lines
    width = max(len(line.name) for line in lines)
    print(f"{type(model).__name__}, {sum(p.numel() for p in model.parameters()):,} parameters\n")
    print(
        f"{'module':<{width}}  {'parameters':>12}  {'a direction':>12}  {settings.n_subnetworks:,} of them"
    )
    for line in lines:
        mark = "  ← by default" if line.picked else ""
        print(
            f"{line.name:<{width}}  {line.parameters:>12,}  {line.of_a_direction:>12,}  "
            f"{line.memory_gib:>6.2f} GiB{mark}"
        )
    print(
        f"\nDirections of rank {rank:g}; memory is that of directions and their optimiser, not of rows."
    )
    some = next((line.name for line in lines if line.picked), lines[0].name)
    print(then(f"decompose {settings.model} --parameters {some} --data DATA"))
    return lines


def inspected(model: nn.Module, depth: int, rank: RankChoice, n_subnetworks: int) -> list[Line]:
    """A line for every module that holds parameters, to a depth."""
    picked = middle_mlp(model) or ()
    lines = []
    for name, module in model.named_modules():
        held = dict(module.named_parameters())
        if not name or name.count(".") >= depth or not held:
            continue
        numbers = make_layout({n: p.shape for n, p in held.items()}, rank).size
        entry = next(iter(held.values())).element_size()
        size = COPIES * n_subnetworks * numbers * entry / 2**30
        parameters = sum(p.numel() for p in held.values())
        lines.append(Line(name, parameters, numbers, size, name in picked))
    require(
        bool(lines), "model", "modules with parameters", "none inside", "Decompose it as it is."
    )
    return lines
