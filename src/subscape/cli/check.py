"""`subscape check`: are the row gradients of a model right? Exit status 1 if not."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import tyro

from subscape.cli.loading import device_of, load_data, load_model
from subscape.cli.models import Pooling
from subscape.cli.next_step import then
from subscape.data import take, to_device
from subscape.gradients.check import check
from subscape.rows import RowKind
from subscape.targets import Target


@dataclass(frozen=True, kw_only=True)
class CheckRun:
    """Check the row gradients of a model: every tensor's engine against plain autograd, row by row.

    Also compared: rows alone with rows in a batch, and for tokens sequences padded left and right. Exit
    status 1 if anything is off by more than rounding.

    Example: subscape check MODEL --parameters 'model.layers.2' --data train.txt --rows sampled-token
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A Hugging Face folder or hub id (also transformers:NAME), timm:NAME, torchvision:NAME, or
    package.module:function."""
    data: str
    """As for decompose."""
    outputs: Pooling | None = None
    """For a model that gives a hidden state per token, such as an encoder: take the mean over tokens."""
    parameters: tuple[str, ...] = ("*",)
    """Globs over parameter or module names; '!glob' excludes."""
    window: int = 16
    """Tokens in a window of text."""
    rows: RowKind = "sample"
    """What one divergence is computed for: a sample, or a token position of a sequence."""
    divergence: Literal["mse", "half-reference-mse", "kl"] = "mse"
    """Between a row's output and its reference; kl takes logits."""
    engine: Literal["auto", "rule", "replay", "vmap", "loop"] = "auto"
    """How row gradients are made."""
    n_rows: int = 8
    """Rows to look at."""
    device: str = "cpu"
    """Where the model runs: cpu, cuda, cuda:1, mps."""
    json: bool = False
    """Print the result as JSON."""


def run(settings: CheckRun) -> int:
    """Carry out the command."""
    loaded = load_model(settings.model, device_of(settings.device), settings.outputs)
    target = Target(loaded.model, settings.parameters, outputs=loaded.outputs)
    data = load_data(settings.data, settings.model, settings.window, settings.outputs)
    result = check(
        target,
        to_device(take(data, slice(0, settings.n_rows)), target.like.device),
        token_rows=settings.rows != "sample",
        divergence=settings.divergence,
        engine=settings.engine,
        n_rows=settings.n_rows,
    )
    if settings.json:
        print(json.dumps({"ok": result.ok, **asdict(result)}))
    else:
        print(result)
        what = f"decompose {settings.model} --data {settings.data}"
        print(then(what if result.ok else f"{what} --engine loop"))
    return 0 if result.ok else 1
