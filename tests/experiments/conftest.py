"""The experiments that need real data, in a tiny setting: that they run, go on where they stopped, and write."""

from importlib import import_module
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


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
