"""The demonstration: a toy with known circuits and a small image model, each ending in a report."""

from subscape.demo.digits import DigitsResult, run_digits
from subscape.demo.toy import ToyResult, run_toy

__all__ = ["DigitsResult", "ToyResult", "run_digits", "run_toy"]
