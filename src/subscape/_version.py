"""The version, without importing the package."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("subscape")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+unknown"
