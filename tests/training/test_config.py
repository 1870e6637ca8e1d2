import inspect
from dataclasses import FrozenInstanceError, fields

import pytest

from subscape import TrainingConfig

COUNTS = [
    "n_subnetworks",
    "steps",
    "batch_size",
    "decay_every",
    "n_restarts",
    "n_heldout_rows",
    "log_every",
    "checkpoint_every",
    "micro_batch_size",
]


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [0, -3])
def test_counts_are_at_least_one(name, value):
    with pytest.raises(ValueError, match=f"{name}: expected a whole number of at least 1; got"):
        TrainingConfig(**{name: value})


def test_resampling_may_be_off_but_not_negative():
    assert TrainingConfig(resample_every=0).resample_every == 0
    with pytest.raises(ValueError, match="resample_every: expected a whole number of at least 0"):
        TrainingConfig(resample_every=-1)


@pytest.mark.parametrize("name", ["learning_rate", "decay", "memory_gib"])
@pytest.mark.parametrize("value", [0.0, -0.1, float("nan")])
def test_rates_are_positive(name, value):
    with pytest.raises(ValueError, match=f"{name}: expected a positive number"):
        TrainingConfig(**{name: value})


@pytest.mark.parametrize("name", ["dense_warmup", "resample_until"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_shares_lie_between_0_and_1(name, value):
    with pytest.raises(ValueError, match=f"{name}: expected a share of the steps"):
        TrainingConfig(**{name: value})


def test_l0_and_active_fraction_say_the_same():
    assert TrainingConfig(n_subnetworks=100, l0=10.0).n_active == 10.0
    assert TrainingConfig(n_subnetworks=100, active_fraction=0.1).n_active == 10.0
    assert TrainingConfig(n_subnetworks=40).n_active == 4.0  # a tenth
    with pytest.raises(ValueError, match="l0: expected l0 or active_fraction.* Leave one of them"):
        TrainingConfig(l0=10.0, active_fraction=0.1)


@pytest.mark.parametrize("l0", [0.0, -1.0, 8.1, float("nan"), float("inf")])
def test_l0_is_at_most_the_number_of_subnetworks(l0):
    with pytest.raises(ValueError, match=r"l0: expected a number of .* in \(0, 8\]"):
        TrainingConfig(n_subnetworks=8, l0=l0)
    assert TrainingConfig(n_subnetworks=8, l0=8.0).n_active == 8.0


def test_unknown_selections_are_refused():
    with pytest.raises(ValueError, match=r"selection: expected one of .*Did you mean 'jumprelu'"):
        TrainingConfig(selection="jumprelo")


def test_every_field_has_a_doc_below_it():
    source = inspect.getsource(TrainingConfig)
    assert source.count('\n    """') == len(fields(TrainingConfig)) + 1  # and that of the class


def test_settings_do_not_change_after_the_fact():
    with pytest.raises(FrozenInstanceError):
        TrainingConfig().steps = 3
