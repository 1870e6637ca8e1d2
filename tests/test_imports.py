"""What a submodule is imported as is the submodule, not something of the same name in it."""

import importlib
import pkgutil
import sys


def test_no_submodule_is_shadowed():
    import subscape

    names = [module.name for module in pkgutil.walk_packages(subscape.__path__, "subscape.")]
    assert {"subscape.measures.impact", "subscape.training.decompose"} <= set(names)
    for name in names:
        module = importlib.import_module(name)
        package, _, last = name.rpartition(".")
        assert getattr(sys.modules[package], last) is module, name
