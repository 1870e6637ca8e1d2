"""What `subscape decompose` takes where nothing was said."""

import numpy
import pytest
import torch

from subscape.cli.decompose import DecomposeRun, with_picks
from subscape.training import TrainingConfig


@pytest.mark.parametrize(
    ("n", "recipe", "fraction", "l0", "start"),
    [
        (100, "whitened", None, 2.0, "clusters"),
        (10, "whitened", None, 1.0, "clusters"),
        (100, "whitened", 0.1, None, "clusters"),
        (100, "published", None, None, "random"),
    ],
)
def test_few_subnetworks_are_active_in_a_row_of_a_classifier(
    tmp_path, n, recipe, fraction, l0, start
):
    path = tmp_path / "data.npz"
    numpy.savez(path, inputs=numpy.zeros((4, 2), "float32"), labels=numpy.arange(4))
    settings = DecomposeRun(
        model="package:model",
        data=str(path),
        recipe=recipe,
        training=TrainingConfig(n, active_fraction=fraction),
    )
    picked = with_picks(settings, torch.nn.Linear(2, 4)).training
    assert (picked.l0, picked.start) == (l0, start)
    assert picked.n_active == (l0 or 0.1 * n)
