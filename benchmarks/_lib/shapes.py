"""Models of real shapes, with random weights where the real ones cannot be had, ready to be decomposed."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from subscape.data import Samples, text_windows
from subscape.rows import RowKind

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@dataclass(frozen=True)
class Shape:
    """A model, what of it is decomposed, and how."""

    name: str
    model: nn.Module
    data: Samples
    parameters: str
    rows: RowKind
    n_subnetworks: int
    rank: Any
    batch_size: int = 256
    labels: Tensor | None = field(default=None, repr=False)


def tinystories_8m() -> Shape:
    """A GPT-Neo of TinyStories-8M's configuration; attention of block 4, ranks 25, 100 subnetworks."""
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    torch.manual_seed(0)
    config = GPTNeoConfig(
        hidden_size=256,
        num_layers=8,
        num_heads=16,
        attention_types=[[["global", "local"], 4]],
        vocab_size=50257,
    )
    model = GPTNeoForCausalLM._from_config(config, attn_implementation="eager").eval()
    data = {"input_ids": torch.randint(0, config.vocab_size, (4096, 16))}
    parameters = "transformer.h.4.attn.attention"
    return Shape("tinystories-8m", model, data, parameters, "sampled-token", 100, 25)


def gpt2_mlp(n_subnetworks: int = 512) -> Shape:
    """A GPT-2 small; the MLP of block 6, rank 8, 512 subnetworks."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config()).eval()
    data = {"input_ids": torch.randint(0, 50257, (4096, 16))}
    return Shape(
        "gpt2-small-mlp", model, data, "transformer.h.6.mlp", "sampled-token", n_subnetworks, 8
    )


def stories260k() -> Shape | None:
    """The attention of block 2 of stories260k, where the data are at hand."""
    folder = data_folder()
    if folder is None:
        return None
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder / "stories260k").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "stories260k")
    data = text_windows(folder / "tinystories" / "heldout_sample.txt", tokenizer, length=16)
    return Shape("stories260k", model, data, "model.layers.2.self_attn", "sampled-token", 100, 0.1)


def resnet20() -> Shape | None:
    """Block layer2.1 of a CIFAR ResNet-20, where the data are at hand."""
    if data_folder() is None:
        return None
    # Last: both folders have a module `ranks`.
    sys.path.append(str(EXPERIMENTS))
    import resnet20 as module

    rank = {"*.conv*": (3, 3, 3, 3), "*": 1}
    model, images, labels = module.model(), module.images(), module.labels()
    return Shape("resnet20", model, images, "layer2.1", "sample", 100, rank, labels=labels)


def data_folder() -> Path | None:
    """The folder of real models and data, named by SUBSCAPE_DATA."""
    named = os.environ.get("SUBSCAPE_DATA")
    return Path(named) if named and Path(named).is_dir() else None


SHAPES: dict[str, Callable[[], Shape | None]] = {
    "tinystories-8m": tinystories_8m,
    "gpt2-small-mlp": gpt2_mlp,
    "stories260k": stories260k,
    "resnet20": resnet20,
}
