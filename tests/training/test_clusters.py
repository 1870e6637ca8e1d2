"""Starts at clusters of training rows: k-means by cosine, and the low-rank form of what comes out."""

from dataclasses import replace

import pytest
import torch
from sklearn.cluster import KMeans

from subscape import TrainingConfig
from subscape.gradients import DenseRowGradients
from subscape.lowrank import make_layout
from subscape.lowrank.project import project
from subscape.lowrank.stack import unit
from subscape.rows import generator_of
from subscape.training import Trainer
from subscape.training.clusters import combined, middles
from subscape.training.recipes import start_of
from subscape.training.schedule import in_dense_warmup
from tests.training.conftest import uniform_source


def around(directions: torch.Tensor, n_each: int, noise: float) -> torch.Tensor:
    """Unit rows near some directions, those of one direction after the other."""
    rows = directions.repeat_interleave(n_each, 0)
    rows = rows + noise * torch.randn(rows.shape, generator=generator_of(1, 0), dtype=rows.dtype)
    return torch.nn.functional.normalize(rows, dim=1)


def test_every_cluster_has_its_middle():
    truth = torch.eye(6, dtype=torch.float64)[:4]
    rows = around(truth, 25, 0.05)
    weights = middles(rows @ rows.mT, 4, generator_of(0, 0))
    found = weights @ rows
    assert torch.allclose(found.norm(dim=1), torch.ones(4, dtype=torch.float64))
    assert (found @ truth.mT).amax(0).min() > 0.99
    # Of a cluster all rows have the same weight, and no other has any.
    assert ((weights > 0).sum(1) == 25).all()
    assert ((weights > 0).sum(0) == 1).all()


def test_middles_are_as_near_as_those_of_the_library():
    rows = torch.nn.functional.normalize(
        torch.randn(300, 8, generator=generator_of(3, 0), dtype=torch.float64), dim=1
    )
    own = min(
        float(
            (1 - (middles(rows @ rows.mT, 10, generator_of(s, 0)) @ rows @ rows.mT).amax(0)).mean()
        )
        for s in range(5)
    )
    library = KMeans(10, n_init=5, random_state=0)  # pyright: ignore[reportArgumentType]
    centres = torch.from_numpy(library.fit(rows.numpy()).cluster_centers_)
    theirs = float((1 - (torch.nn.functional.normalize(centres, dim=1) @ rows.mT).amax(0)).mean())
    assert own <= 1.02 * theirs


@pytest.mark.parametrize("n", [3, 6])
def test_equal_rows_leave_no_cluster_empty(n):
    rows = torch.eye(3, dtype=torch.float64).repeat_interleave(2, 0)
    weights = middles(rows @ rows.mT, n, generator_of(0, 0))
    assert ((weights > 0).sum(1) >= 1).all()
    assert torch.allclose((weights @ rows).norm(dim=1), torch.ones(n, dtype=torch.float64))


def test_middles_of_parts_are_the_nearest_of_the_layout():
    layout = make_layout({"a": (4, 3), "b": (5,)}, 2, "tucker")
    shapes = {"a": (4, 3), "b": (5,)}
    rows = torch.randn(7, 17, generator=generator_of(0, 0), dtype=torch.float64)
    parts = [DenseRowGradients(rows[:3], shapes), DenseRowGradients(rows[3:], shapes)]
    mix = torch.rand(4, 7, generator=generator_of(0, 1), dtype=torch.float64)
    whole = unit(project(layout, mix @ rows))
    assert torch.allclose(combined(parts, mix, layout).weights, whole.weights)


def test_subnetworks_start_at_clusters_of_their_rows_and_do_not_warm_up(planted):
    made = uniform_source(planted)
    config = TrainingConfig(9, rank=1, batch_size=64, steps=10, start="clusters")
    start = Trainer([made], config).dictionary.decoder.flat()[0, 0]
    rows = torch.nn.functional.normalize(made.gradients(made.rows(0, 64)).flat, dim=1)
    random = Trainer([made], replace(config, start="random")).dictionary.decoder.flat()[0, 0]
    nearest, of_random = ((rows @ d.mT).abs().amax(1).mean() for d in (start, random))
    assert nearest > of_random + 0.1
    assert not in_dense_warmup(config, 0)
    assert in_dense_warmup(replace(config, start="random"), 0)
    assert in_dense_warmup(replace(config, dense_warmup=0.1), 0)


def test_every_restart_has_clusters_of_its_own_draw(planted):
    made = uniform_source(planted)
    config = TrainingConfig(9, rank=1, batch_size=64, steps=10, start="clusters", n_restarts=2)
    first, second = Trainer([made], config).dictionary.decoder.flat()[0]
    assert not torch.allclose(first, second)
    again = Trainer([made], config).dictionary.decoder.flat()[0]
    assert torch.equal(again, torch.stack([first, second]))


@pytest.mark.parametrize(
    ("recipe", "rows", "start"),
    [
        ("whitened", "sample", "clusters"),
        ("whitened", "token", "random"),
        ("published", "sample", "random"),
    ],
)
def test_where_a_recipe_starts(recipe, rows, start):
    assert start_of(recipe, rows) == start
