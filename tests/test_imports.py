"""What a submodule is imported as is the submodule, not something of the same name in it."""

import importlib
import pkgutil
import sys

import pytest


def submodules():
    import subscape

    return [module.name for module in pkgutil.walk_packages(subscape.__path__, "subscape.")]


@pytest.mark.parametrize("name", ["subscape.measures.impact", "subscape.training.decompose"])
def test_all_submodules_are_looked_at(name):
    assert name in submodules()


def test_no_submodule_is_shadowed():
    shadowed = []
    for name in submodules():
        module = importlib.import_module(name)
        package, _, last = name.rpartition(".")
        if getattr(sys.modules[package], last) is not module:
            shadowed.append(name)
    assert shadowed == []
