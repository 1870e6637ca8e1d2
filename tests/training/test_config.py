import inspect
from dataclasses import FrozenInstanceError, fields

import pytest

from subscape import TrainingConfig


@pytest.mark.parametrize(
    "name",
    [
        "n_subnetworks",
        "steps",
        "batch_size",
        "decay_every",
        "n_restarts",
        "n_heldout_rows",
        "log_every",
        "checkpoint_every",
    ],
)
@pytest.mark.parametrize("value", [0, -3])
def test_counts_are_at_least_one(name: str, value: int):
    with pytest.raises(ValueError, match=f"{name}: expected a whole number of at least 1; got"):
        TrainingConfig(**{name: value})


def test_revival_may_be_off_but_not_negative():
    assert TrainingConfig(revive_every=0).revive_every == 0
    with pytest.raises(ValueError, match="revive_every: expected a whole number of at least 0"):
        TrainingConfig(revive_every=-1)


@pytest.mark.parametrize("name", ["learning_rate", "decay"])
@pytest.mark.parametrize("value", [0.0, -0.1, float("nan")])
def test_rates_are_positive(name: str, value: float):
    with pytest.raises(ValueError, match=f"{name}: expected a positive number"):
        TrainingConfig(**{name: value})


@pytest.mark.parametrize("name", ["warm_start", "revive_until"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_shares_lie_between_0_and_1(name: str, value: float):
    with pytest.raises(ValueError, match=f"{name}: expected a share of the steps"):
        TrainingConfig(**{name: value})


def test_every_field_has_a_doc_below_it():
    source = inspect.getsource(TrainingConfig)
    assert source.count('\n    """') == len(fields(TrainingConfig)) + 1  # and that of the class


def test_settings_do_not_change_after_the_fact():
    with pytest.raises(FrozenInstanceError):
        TrainingConfig().steps = 3
