"""The tree of modules: what they are imported as, and what documents say of them."""

import importlib
import pkgutil
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "subscape"
DOCUMENTS = [ROOT / "CONTRIBUTING.md", ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_no_submodule_is_shadowed():
    import subscape

    names = [module.name for module in pkgutil.walk_packages(subscape.__path__, "subscape.")]
    assert {"subscape.measures.impact", "subscape.training.decompose"} <= set(names)
    for name in names:
        module = importlib.import_module(name)
        package, _, last = name.rpartition(".")
        assert getattr(sys.modules[package], last) is module, name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_files_named_in_documents_are_there(document):
    named = re.findall(r"`([a-z_]+/[\w/]*\.py)`", document.read_text())
    assert [n for n in named if not any((at / n).exists() for at in (ROOT, PACKAGE))] == []


def test_every_layer_is_in_the_table_of_layers():
    table = (ROOT / "CONTRIBUTING.md").read_text().split("| layer |")[1].split("\n\n")[0]
    named = {name for line in table.splitlines() for name in re.findall(r"`(\w+)`", line[:60])}
    layers = {path.stem for path in PACKAGE.iterdir() if path.suffix in ("", ".py")}
    assert {name for name in layers if not name.startswith("_")} <= named
    assert all(name in layers for name in named)
