"""Experiments in a tiny setting: with real data, and with a language model and toys that are made here."""

import sys
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest
import torch

from subscape.toys import training

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
FEWER = {
    "completeness": {"N_HELDOUT": 200},
    "contrastive": {"N_PAIRS": 300, "N_HELDOUT": 200},
    "radius": {"N_TOP": 2, "N_PUSHED": 2},
    "scaffolding": {"N_SAMPLES": 1100, "N_HELDOUT": 200},
    "squared_paths": {"N_HELDOUT": 200},
    "synthetic": {"N_ROWS": 400, "N_HELDOUT": 200},
    "transfer": {"N_WINDOWS": 100},
}
"""Constants of an experiment's module that its settings do not reach."""


@pytest.fixture(scope="session")
def text(data_dir):
    """The base model and some windows, read once."""
    pytest.importorskip("transformers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SUBSCAPE_DATA", str(data_dir))
        patch.syspath_prepend(str(EXPERIMENTS))
        kind = import_module("geometry_measures").Text
        whole = kind.load()
        return kind(whole.model, whole.texts, whole.trained[:2000], whole.held[:500])


@pytest.fixture
def experiments(data_dir, text, monkeypatch, unchecked):
    """Experiments can be imported, and take little of the data to estimate anything from."""
    monkeypatch.setenv("SUBSCAPE_DATA", str(data_dir))
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    monkeypatch.setattr("geometry_measures.Text.load", lambda: text)
    for name, few in (("METRIC_ROWS", 256), ("MEAN_SAMPLES", 64)):
        monkeypatch.setattr(f"subscape.gradients.source.{name}", few)
    for name, few in (("MOST_ROUNDS", 2), ("MOST_ROWS", 256)):
        monkeypatch.setattr(f"subscape.training.clusters.{name}", few)


@pytest.fixture
def page(tmp_path):
    """A page with the marks that a table goes between."""
    path = tmp_path / "page.md"
    path.write_text("before\n<!-- table -->\n<!-- end of table -->\nafter\n", encoding="utf-8")
    return path


@pytest.fixture
def run(monkeypatch, tmp_path, unchecked):
    """From the name of an experiment and its settings to its records; measured, then once more from its files."""
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    fit = training._fit

    def short(recipe, free, x, y, how):
        return fit(recipe, free, x, y, replace(how, n_steps=min(how.n_steps, 100)))

    monkeypatch.setattr(training, "_fit", short)
    for name, few in (("METRIC_ROWS", 256), ("MEAN_SAMPLES", 64)):
        monkeypatch.setattr(f"subscape.gradients.source.{name}", few)
    for name, few in (("MOST_ROUNDS", 2), ("MOST_ROWS", 256)):
        monkeypatch.setattr(f"subscape.training.clusters.{name}", few)
    before = set(sys.modules)

    def tiny(name, settings):
        module, page = import_module(name), import_module("page")
        for constant, value in FEWER.get(name, {}).items():
            monkeypatch.setattr(module, constant, value)
        records = module.measure(tmp_path / name, **settings)
        assert records
        text = page.table(records, module.COLUMNS)
        assert len(text.splitlines()) == len(records) + 2
        module.picture(tmp_path / "picture.png", records)
        assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
        written = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.json")}
        assert written
        assert page.table(module.measure(tmp_path / name, **settings), module.COLUMNS) == text
        assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.json")} == written
        return records

    yield tiny
    # Other tests have modules of these names too.
    for name in set(sys.modules) - before:
        if str(EXPERIMENTS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def tiny_text(run, monkeypatch):
    """A language model with random weights in the place of the real one, and random tokens."""
    transformers = pytest.importorskip("transformers")
    measures = import_module("geometry_measures")
    sizes = {"hidden_size": 16, "intermediate_size": 12, "num_hidden_layers": 4, "vocab_size": 200}
    sizes["initializer_range"] = 0.7  # outputs that can be moved by a tenth of a nat
    config = transformers.LlamaConfig(**sizes, num_attention_heads=2, max_position_embeddings=32)
    model = transformers.LlamaForCausalLM(config).eval()
    trained, held = (torch.randint(0, 180, (n, 16)) for n in (400, 300))
    text = measures.Text(model, [f"w{i}" for i in range(200)], trained, held)
    monkeypatch.setattr(measures.Text, "load", lambda: text)
    monkeypatch.setattr(measures, "plant", partial(measures.plant, steps=2))
    monkeypatch.setitem(import_module("stories").OPTIONS, "n_subnetworks", 8)
    monkeypatch.setitem(import_module("planting").OPTIONS, "n_subnetworks", 8)
    return text
