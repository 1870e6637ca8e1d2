"""Settings and fixtures for all tests."""

import gc
import os
import shutil
from pathlib import Path

import hypothesis
import jaxtyping
import pytest
import torch
from torch import Tensor, nn

from tests import type_checks

if "SUBSCAPE_CHECK_EVERY_CALL" not in os.environ:
    type_checks.install()

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


def pytest_collection_finish():
    # A million objects of torch and of the tests stay until the end: no collection need visit them.
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def fresh_start():
    """Every test draws the same numbers and checks the same calls, whatever ran before it."""
    type_checks.calls_in_this_test.clear()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def unchecked(monkeypatch):
    """For many small steps: checking shapes, which other tests do, would take most of the time."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(scope="session")
def trained_tms():
    """The toy of superposition, whose training takes longer than what is tested with it."""
    from subscape.toys import ToyTraining, tms

    return tms(seed=0, training=ToyTraining(n_steps=1000))


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
def driver(tmp_path_factory):
    """Headless Chromium that keeps a log of every request and message; one for all tests."""
    programs = shutil.which("chromium"), shutil.which("chromedriver")
    if None in programs:
        reason = "needs a browser: install chromium and chromium-driver"
        if os.environ.get("SUBSCAPE_BROWSER_TESTS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(programs[0])
    profile: Path = tmp_path_factory.mktemp("profile")
    quiet = "no-first-run disable-background-networking disable-component-update disable-sync"
    plain = "headless no-sandbox disable-gpu disable-quic disable-dev-shm-usage hide-scrollbars"
    for flag in (*quiet.split(), *plain.split(), f"user-data-dir={profile}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(executable_path=programs[1]))
    # A window without focus, as a headless one may be, sends no focus events.
    browser.execute_cdp_cmd("Emulation.setFocusEmulationEnabled", {"enabled": True})
    try:
        yield browser
    finally:
        browser.quit()


def normal(*shape, seed=0):
    """Normal numbers in float64, always the same for a seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


class Made(nn.Module):
    """Modules and parameters by name, and a forward over them."""

    def __init__(self, forward, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part) if isinstance(part, Tensor) else part)
        self.of = forward

    def forward(self, *inputs, **named):
        return self.of(self, *inputs, **named)


def tiny(kind, vocabulary=11, **changes):
    """A small `llama`, `gpt2` or `mamba` with random weights."""
    transformers = pytest.importorskip("transformers")
    sizes = {
        "llama": dict(hidden_size=8, intermediate_size=12, num_attention_heads=2)
        | dict(num_hidden_layers=2, num_key_value_heads=1),
        "gpt2": dict(n_positions=16, n_embd=8, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0),
        "mamba": dict(hidden_size=4, state_size=2, num_hidden_layers=1, time_step_rank=2),
    }
    name, head = {
        "llama": ("Llama", "ForCausalLM"),
        "gpt2": ("GPT2", "LMHeadModel"),
        "mamba": ("Mamba", "ForCausalLM"),
    }[kind]
    config = getattr(transformers, f"{name}Config")
    made = config(vocab_size=vocabulary, initializer_range=0.4, **sizes[kind] | changes)
    return getattr(transformers, f"{name}{head}")(made).eval()


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
