"""Small models of every kind whose row gradients the engines must get right."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from subscape.data import take
from subscape.gradients import loop_gradients
from subscape.gradients.plan import relative_error
from tests.conftest import Made, tiny

N_SAMPLES = 6


@dataclass(frozen=True)
class Case:
    """A model with inputs, and how its rows are to be taken."""

    model: nn.Module
    data: Any
    parameters: str | list[str] = "*"
    rows: str = "sample"


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
    """A 3-D, a 1-D and a 0-D parameter of which no module knows."""

    def forward(self, x):
        return self.scale * torch.einsum("nd,hde->nhe", x, self.kernel).tanh().sum(1) + self.offset

    parts = {"kernel": torch.randn(2, 4, 3), "offset": torch.randn(3), "scale": torch.tensor(1.3)}
    return Case(Made(forward, **parts), torch.randn(N_SAMPLES, 4))


def tied():
    """One tensor under two names, used twice."""
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))

    return Case(Made(forward, first=first, second=second), torch.randn(N_SAMPLES, 4))


def exact(kind, vocabulary=11, **changes):
    """`tiny` with norms in the dtype of their inputs: transformers' compute in float32 whatever comes."""
    model = tiny(kind, vocabulary, **changes)
    for name, child in list(model.named_modules()):
        if type(child).__name__.endswith("RMSNorm"):
            parent, _, local = name.rpartition(".")
            norm = nn.RMSNorm(len(child.weight), eps=1e-6)
            setattr(model.get_submodule(parent), local, norm)
    return model


def exact_llama():
    return exact("llama", tie_word_embeddings=True)


def llama_tokens():
    """Token rows; the embedding is tied to the head."""
    data = {"input_ids": torch.randint(0, 11, (N_SAMPLES, 5))}
    return Case(exact_llama(), data, rows="sampled-token")


def llama_sequences():
    """A sequence is a row; a BatchEncoding as tokenizers give it, with a mask; some tensors only."""
    transformers = pytest.importorskip("transformers")
    ids = torch.randint(0, 11, (N_SAMPLES, 5))
    data = transformers.BatchEncoding({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    return Case(
        exact_llama(), data, parameters=["model.layers.1.self_attn", "*.0.mlp.down_proj.weight"]
    )


def gpt2_tokens():
    data = {"input_ids": torch.randint(0, 11, (N_SAMPLES, 5))}
    return Case(tiny("gpt2", n_layer=1), data, rows="sampled-token")


MAKERS = [
    linear,
    mlp,
    convolution,
    raw_parameters,
    tied,
    llama_tokens,
    llama_sequences,
    gpt2_tokens,
]
CASES = {make.__name__: make for make in MAKERS}


@pytest.fixture(params=list(CASES))
def case(request):
    """Makes the case in a given dtype, the same every time."""

    def make(dtype):
        torch.manual_seed(0)
        made = CASES[request.param]()
        data = made.data.to(dtype) if isinstance(made.data, Tensor) else made.data
        return Case(made.model.to(dtype), data, made.parameters, made.rows)

    return make


# Against the oracle


def whole(source):
    """Row gradients of one step over all the data."""
    return source.gradients(source.rows(0, source.n_rows)).flat


def worst_row(found, expected):
    """Largest relative error of a row; no row may be zero, or the comparison would be empty."""
    assert (expected.norm(dim=-1) > 0).all()
    return float(((found - expected).norm(dim=-1) / expected.norm(dim=-1)).max())


def assert_right(source, bound=1e-9, *, zeros=()):
    """Row gradients against the oracle's: in full, and of every tensor, of which `zeros` have none."""
    rows = source.rows(0, source.n_rows)
    reference, inputs = (
        source.reference(source.outputs_at(rows), rows),
        take(source.data, rows.samples),
    )
    found = source.gradients(rows)
    expected = loop_gradients(source.target, inputs, rows.position, reference, source.divergence)
    assert found.flat.shape == (source.n_rows, source.target.n_parameters)
    sizes, off = expected.flat.norm(dim=1), (found.flat - expected.flat).norm(dim=1)
    assert (off <= bound * torch.where(sizes > 0, sizes, 1.0)).all()
    by_name = found.dense()
    assert list(by_name) == source.target.names
    for name, values in expected.dense().items():
        assert bool(values.any()) is (name not in zeros), name
        assert relative_error(by_name[name], values) <= bound, name
