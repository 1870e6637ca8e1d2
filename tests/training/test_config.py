import inspect
from dataclasses import FrozenInstanceError, fields

import pytest

from subscape import TrainingConfig

COUNTS = ["n_subnetworks", "steps", "batch_size", "decay_every", "n_restarts", "n_heldout_rows"]
COUNTS += ["log_every", "checkpoint_every", "micro_batch_size"]
NAN = float("nan")
TABLE = [
    (COUNTS, [0, -3], "expected a whole number of at least 1; got"),
    (["resample_every"], [-1], "expected a whole number of at least 0"),
    (["learning_rate", "decay", "memory_gib"], [0.0, -0.1, NAN], "expected a positive number"),
    (["dense_warmup", "resample_until"], [-0.1, 1.1, NAN], "expected a share of the steps"),
    (["l0"], [0.0, -1.0, 8.1, NAN, float("inf")], r"expected a number of .* in \(0, 8\]"),
    (["selection"], ["jumprelo"], "expected one of .*Did you mean 'jumprelu'"),
]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [(name, value, said) for names, values, said in TABLE for name in names for value in values],
)
def test_settings_that_are_none(name, value, said):
    with pytest.raises(ValueError, match=f"{name}: {said}"):
        TrainingConfig(**{"n_subnetworks": 8} | {name: value})


def test_settings_that_may_be():
    assert TrainingConfig(resample_every=0).resample_every == 0
    assert TrainingConfig(n_subnetworks=8, l0=8.0).n_active == 8.0
    assert TrainingConfig(n_subnetworks=100, l0=10.0).n_active == 10.0
    assert TrainingConfig(n_subnetworks=100, active_fraction=0.1).n_active == 10.0
    assert TrainingConfig(n_subnetworks=40).n_active == 4.0  # a tenth


def test_every_field_has_a_doc_below_it_and_does_not_change_after_the_fact():
    source = inspect.getsource(TrainingConfig)
    assert source.count('\n    """') == len(fields(TrainingConfig)) + 1  # and that of the class
    with pytest.raises(FrozenInstanceError):
        TrainingConfig().steps = 3
