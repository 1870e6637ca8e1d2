"""Small models of every kind whose row gradients the engines must get right."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

N_SAMPLES = 6


@dataclass(frozen=True)
class Case:
    """A model with inputs, and how its rows are to be taken."""

    model: nn.Module
    data: Any
    parameters: str | list[str] = "*"
    rows: str = "sample"


class RawParameters(nn.Module):
    """A 3-D, a 1-D and a 0-D parameter of which no module knows."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(2, 4, 3))
        self.offset = nn.Parameter(torch.randn(3))
        self.scale = nn.Parameter(torch.tensor(1.3))

    def forward(self, x):
        heads = torch.einsum("nd,hde->nhe", x, self.kernel)
        return self.scale * torch.tanh(heads).sum(1) + self.offset


class Tied(nn.Module):
    """One tensor under two names, used twice."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def linear():
    return Case(nn.Linear(4, 3), torch.randn(N_SAMPLES, 4))


def mlp():
    model = nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 3))
    return Case(model, torch.randn(N_SAMPLES, 4))


def convolution():
    norm = nn.BatchNorm2d(4)
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        norm,
        nn.Hardswish(inplace=True),
        nn.Conv2d(4, 4, 3, stride=2, groups=2),
        nn.Flatten(),
        nn.Linear(16, 3),
    )
    return Case(model.eval(), torch.randn(N_SAMPLES, 2, 5, 5))


def raw_parameters():
    return Case(RawParameters(), torch.randn(N_SAMPLES, 4))


def tied():
    return Case(Tied(), torch.randn(N_SAMPLES, 4))


def tiny(kind, vocabulary=11, **changes):
    """A small `llama`, `gpt2` or `mamba` with random weights."""
    transformers = pytest.importorskip("transformers")
    sizes = {
        "llama": {
            "hidden_size": 8,
            "intermediate_size": 12,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
        },
        "gpt2": {
            "n_positions": 16,
            "n_embd": 8,
            "n_layer": 2,
            "n_head": 2,
            "bos_token_id": 0,
            "eos_token_id": 0,
        },
        "mamba": {"hidden_size": 4, "state_size": 2, "num_hidden_layers": 1, "time_step_rank": 2},
    }
    name, head = {"llama": ("Llama", ""), "gpt2": ("GPT2", "LMHead"), "mamba": ("Mamba", "")}[kind]
    config = getattr(transformers, f"{name}Config")(
        vocab_size=vocabulary, initializer_range=0.4, **sizes[kind] | changes
    )
    ending = "LMHeadModel" if head else "ForCausalLM"
    return getattr(transformers, f"{name}{ending}")(config).eval()


def in_working_dtype(model):
    """The library's own norms compute in float32 whatever comes; a check to 1e-9 needs float64."""
    for name, child in list(model.named_modules()):
        if type(child).__name__.endswith("RMSNorm"):
            parent, _, local = name.rpartition(".")
            norm = nn.RMSNorm(len(child.weight), eps=1e-6)
            setattr(model.get_submodule(parent), local, norm)
    return model


@pytest.fixture
def language_model():
    """Makes a model by `tiny`."""
    return tiny


@pytest.fixture
def exact_model():
    """The same with norms in the dtype of their inputs."""
    return lambda *kind, **changes: in_working_dtype(tiny(*kind, **changes))


def _llama():
    return in_working_dtype(tiny("llama", tie_word_embeddings=True))


def llama_tokens():
    """Token rows; the embedding is tied to the head."""
    data = {"input_ids": torch.randint(0, 11, (N_SAMPLES, 5))}
    return Case(_llama(), data, rows="sampled-token")


def llama_sequences():
    """A sequence is a row; a BatchEncoding as tokenizers give it, with a mask; some tensors only."""
    transformers = pytest.importorskip("transformers")
    ids = torch.randint(0, 11, (N_SAMPLES, 5))
    data = transformers.BatchEncoding({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    return Case(_llama(), data, parameters=["model.layers.1.self_attn", "*.0.mlp.down_proj.weight"])


def gpt2_tokens():
    data = {"input_ids": torch.randint(0, 11, (N_SAMPLES, 5))}
    return Case(tiny("gpt2", n_layer=1), data, rows="sampled-token")


CASES: dict[str, Callable[[], Case]] = {
    make.__name__: make
    for make in (
        linear,
        mlp,
        convolution,
        raw_parameters,
        tied,
        llama_tokens,
        llama_sequences,
        gpt2_tokens,
    )
}


def _to(data, dtype):
    return data.to(dtype) if isinstance(data, Tensor) else data


@pytest.fixture(params=list(CASES))
def case(request):
    """Makes the case in a given dtype, the same every time."""

    def make(dtype):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            made = CASES[request.param]()
        return Case(made.model.to(dtype), _to(made.data, dtype), made.parameters, made.rows)

    return make
