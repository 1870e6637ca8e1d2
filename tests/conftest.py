"""Settings and fixtures for all tests."""

import os
from pathlib import Path

import hypothesis
import pytest
import torch

# xdist runs one worker per core; more threads in each would only compete for the same cores.
torch.set_num_threads(1)

# A first call may compile or load something, so the time of one example says nothing.
hypothesis.settings.register_profile(
    "subscape", deadline=None, derandomize=os.environ.get("CI") is not None
)
hypothesis.settings.load_profile("subscape")


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs an accelerator"))


@pytest.fixture(autouse=True)
def own_randomness():
    """Every test draws the same numbers, whatever ran before it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="session")
def trained_tms():
    """The toy of superposition, whose training takes longer than what is tested with it."""
    from subscape.toys import tms

    return tms(seed=0)


@pytest.fixture(scope="session")
def data_dir():
    """The folder of real data, named by SUBSCAPE_DATA."""
    named = os.environ.get("SUBSCAPE_DATA")
    if not named:
        pytest.skip("needs real data: set SUBSCAPE_DATA to its folder")
    folder = Path(named)
    if not folder.is_dir():
        pytest.skip(f"needs real data: SUBSCAPE_DATA names no folder: {folder}")
    return folder


@pytest.fixture(scope="session")
def mod_add_weights():
    """Makes random weights of the transformer for modular addition out of a generator."""
    return _mod_add_weights


def _mod_add_weights(generator, modulus=5, width=8, heads=2, hidden=11):
    head = width // heads

    def draw(*shape):
        return torch.randn(*shape, generator=generator).double() / shape[-2] ** 0.5

    attention = {f"W_{x}": draw(heads, width, head) for x in "QKV"}
    attention |= {f"b_{x}": 0.2 * draw(heads, head) for x in "QKV"}
    attention |= {"W_O": draw(heads, head, width), "b_O": 0.2 * draw(1, width)[0]}
    return {f"blocks.0.attn.{name}": tensor for name, tensor in attention.items()} | {
        "embed.W_E": draw(modulus + 1, width) * 3,
        "pos_embed.W_pos": draw(3, width),
        "blocks.0.mlp.W_in": draw(width, hidden),
        "blocks.0.mlp.b_in": 0.2 * draw(1, hidden)[0],
        "blocks.0.mlp.W_out": draw(hidden, width),
        "blocks.0.mlp.b_out": 0.2 * draw(1, width)[0],
        "unembed.W_U": draw(width, modulus + 1),
        "unembed.b_U": 0.2 * draw(1, modulus + 1)[0],
    }
