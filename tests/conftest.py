"""Settings and fixtures for all tests.

Must not import subscape at module level: the jaxtyping plugin can only check what is imported
after it has been set up.
"""

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs an accelerator"))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data, named by SUBSCAPE_DATA."""
    named = os.environ.get("SUBSCAPE_DATA")
    if not named:
        pytest.skip("needs real data: set SUBSCAPE_DATA to its folder")
    folder = Path(named)
    if not folder.is_dir():
        pytest.skip(f"needs real data: SUBSCAPE_DATA names no folder: {folder}")
    return folder
