"""What is held out is not trained on, however samples repeat."""

import pytest
import torch
from torch import Tensor, nn

from subscape import decompose
from subscape.data import hashes, take
from subscape.training import prepare

OPTIONS = {"n_subnetworks": 3, "rank": 1, "steps": 4, "batch_size": 8, "n_heldout_rows": 16}


def rows(samples):
    assert isinstance(samples, Tensor)
    return {tuple(row.tolist()) for row in samples}


def test_hashes_tell_samples_apart_by_every_tensor():
    ids = torch.tensor([[1, 2], [1, 2], [1, 2]])
    mask = torch.tensor([[1, 1], [1, 1], [1, 0]])
    first, second, third = hashes({"ids": ids, "mask": mask})
    assert first == second != third
    assert len(set(hashes(torch.tensor([0.0, -0.0, 0.0])[:, None]))) == 2  # to the bit


def test_copies_of_a_sample_are_on_one_side():
    distinct = torch.randn(40, 4)
    data = distinct.repeat(20, 1)
    with pytest.warns(UserWarning, match="40 of 800 samples are distinct"):
        prepared = prepare(nn.Linear(4, 3), data, **OPTIONS)
    held, trained = rows(prepared.heldout.data), rows(prepared.source.data)
    assert not held & trained
    assert held | trained == rows(distinct)
    assert len(held) == 4  # a tenth of the distinct ones
    assert len(prepared.heldout) == 80  # all copies


def test_heldout_samples_that_are_trained_on_are_left_out():
    data = torch.randn(50, 4)
    heldout = torch.cat([take(data, slice(0, 5)), torch.randn(10, 4)])
    with pytest.warns(UserWarning, match="5 of 15 samples are in data too"):
        prepared = prepare(nn.Linear(4, 3), data, heldout=heldout, **OPTIONS)
    assert rows(prepared.heldout.data) == rows(heldout[5:])
    with pytest.raises(ValueError, match=r"heldout: expected .* not in data; got 0 of 50"):
        prepare(nn.Linear(4, 3), data, heldout=data, **OPTIONS)


def test_metrics_count_distinct_samples():
    found = decompose(nn.Linear(4, 3), torch.randn(60, 4), progress=False, **OPTIONS)
    assert found.metrics["heldout_samples"] == 6
    assert found.metrics["heldout_rows"] == 18  # three batches of the six
