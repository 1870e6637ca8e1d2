"""Small models with decompositions of random directions, whose measures an oracle can check."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import nn


@dataclass(frozen=True)
class Small:
    """A target, data and random subnetworks."""

    target: Any
    data: Any
    decomposition: Any

    def changed(self, *, threshold=None, **sides):
        """With another encoder, decoder or threshold."""
        old = self.decomposition
        parts = {"encoder": old.encoder, "decoder": old.decoder} | sides
        new = decomposition_of(
            *parts.values(),
            float(old.threshold) if threshold is None else threshold,
            old.target,
            dict(old.settings),
        )
        return replace(self, decomposition=new)


def decomposition_of(encoder, decoder, threshold, target, settings):
    from subscape import Decomposition
    from subscape.subnetworks.dictionary import Dictionary
    from subscape.subnetworks.selection import BatchTopK

    n = len(encoder.weights)
    selection = BatchTopK(0.4 * n, torch.Size([n]), encoder.weights)
    selection.threshold.fill_(threshold)
    dictionary = Dictionary(encoder, decoder, selection).requires_grad_(False)
    return Decomposition(dictionary, target, settings)


@pytest.fixture(scope="session")
def make_decomposition():
    """From encoder, decoder, threshold, fingerprint and settings."""
    return decomposition_of


def mlp():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def tokens():
    """Every position by itself: an embedding and a head."""
    return nn.Sequential(nn.Embedding(7, 5), nn.Tanh(), nn.Linear(5, 7))


def convolution():
    kernel = nn.Conv2d(1, 4, 3, padding=1)
    return nn.Sequential(kernel, nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))


def llama(attention="sdpa", *, tied=False):
    transformers = pytest.importorskip("transformers")
    sizes = dict(vocab_size=11, hidden_size=8, intermediate_size=12, max_position_embeddings=16)
    heads = dict(num_attention_heads=2, num_key_value_heads=1, attn_implementation=attention)
    config = transformers.LlamaConfig(
        **sizes, **heads, num_hidden_layers=2, tie_word_embeddings=tied, initializer_range=0.4
    )
    model = transformers.LlamaForCausalLM(config).eval()
    # The library's own norm computes in float32 whatever its inputs are.
    for block in model.model.layers:
        block.input_layernorm = nn.RMSNorm(8, eps=config.rms_norm_eps)
        block.post_attention_layernorm = nn.RMSNorm(8, eps=config.rms_norm_eps)
    model.model.norm = nn.RMSNorm(8, eps=config.rms_norm_eps)
    return model


def gpt2(attention="sdpa"):
    transformers = pytest.importorskip("transformers")
    sizes = dict(vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    config = transformers.GPT2Config(**sizes, initializer_range=0.4, attn_implementation=attention)
    return transformers.GPT2LMHeadModel(config).eval()


MODELS: dict[str, Callable[..., nn.Module]] = {
    f.__name__: f for f in (mlp, tokens, convolution, llama, gpt2)
}


def inputs(kind, n, dtype):
    if kind in ("mlp", "convolution"):
        return torch.randn(n, *((4,) if kind == "mlp" else (1, 6, 6))).to(dtype)
    if kind == "tokens":
        return torch.randint(0, 7, (n, 5))
    return {"input_ids": torch.randint(0, 11, (n, 5))}


@pytest.fixture(scope="session")
def small():
    """Makes a target, data and random subnetworks, the same every time."""
    from subscape import Target
    from subscape.lowrank import initial_stack, make_layout

    def make(
        kind="mlp",
        *,
        n=20,
        k=5,
        rank=1,
        form="tucker",
        parameters="*",
        dtype=torch.float64,
        threshold=0.1,
        settings=None,
        **options,
    ):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = MODELS[kind](**options).to(dtype).eval()
            data = inputs(kind, n, dtype)
        target = Target(model, parameters)
        layout = make_layout(target.shapes, rank, form)
        encoder, decoder = (
            initial_stack(layout, (k,), torch.Generator().manual_seed(seed), target.like)
            for seed in (1, 2)
        )
        made = decomposition_of(encoder, decoder, threshold, target.fingerprint(), settings or {})
        return Small(target, data, made)

    return make
