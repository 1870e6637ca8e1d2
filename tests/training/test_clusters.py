"""Starts at clusters of training rows: k-means by cosine, and the low-rank form of what comes out."""

from dataclasses import replace

import pytest
import torch
from sklearn.cluster import KMeans

from subscape import TrainingConfig, decompose
from subscape.gradients import DenseRowGradients, micro_batches
from subscape.lowrank import make_layout
from subscape.lowrank.project import project
from subscape.lowrank.stack import unit
from subscape.rows import generator_of
from subscape.training import Trainer, clusters
from subscape.training import trainer as trainer_module
from subscape.training.clusters import combined, middles
from subscape.training.recipes import start_of, with_start
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


def test_middles_are_the_nearest_of_the_layout():
    shapes = {"a": (4, 3), "b": (5,)}
    layout = make_layout(shapes, 2, "tucker")
    rows = torch.randn(7, 17, generator=generator_of(0, 0), dtype=torch.float64)
    mix = torch.rand(4, 7, generator=generator_of(0, 1), dtype=torch.float64)
    whole = unit(project(layout, mix @ rows))
    found = combined(DenseRowGradients(rows, shapes), mix, layout)
    assert torch.allclose(found.weights, whole.weights)


@pytest.mark.parametrize("size", [8, 16, 64])
@pytest.mark.parametrize("kept", [0, 2**30])
def test_memory_changes_no_start(planted, monkeypatch, size, kept):
    """Whether rows are kept or made anew, and how many at once."""
    config = TrainingConfig(9, rank=1, batch_size=64, steps=10, start="clusters")
    expected = begun([uniform_source(planted)], config)
    monkeypatch.setattr(micro_batches, "KEPT", kept)
    found = begun([uniform_source(planted)], replace(config, micro_batch_size=size))
    assert torch.allclose(found, expected, rtol=0, atol=1e-10)


def begun(sources, config):
    """Decoder rows [restart, subnetwork, parameter] of a trainer that has begun."""
    trainer = Trainer(sources, config)
    trainer.begin()
    return trainer.dictionary.decoder.flat()[0].detach()


def test_subnetworks_start_at_clusters_of_their_rows_and_do_not_warm_up(planted):
    made = uniform_source(planted)
    config = TrainingConfig(9, rank=1, batch_size=64, steps=10, start="clusters")
    rows = torch.nn.functional.normalize(made.gradients(made.rows(0, 64)).flat, dim=1)
    nearest, of_random = (
        (rows @ begun([made], c)[0].mT).abs().amax(1).mean()
        for c in (config, replace(config, start="random"))
    )
    assert nearest > of_random + 0.1
    assert not in_dense_warmup(config, 0)
    assert in_dense_warmup(replace(config, start="random"), 0)
    assert in_dense_warmup(replace(config, dense_warmup=0.1), 0)


def test_every_restart_has_clusters_of_its_own_draw(planted):
    config = TrainingConfig(9, rank=1, batch_size=64, steps=10, start="clusters", n_restarts=2)
    first, second = both = begun([uniform_source(planted)], config)
    assert not torch.allclose(first, second)
    assert torch.equal(begun([uniform_source(planted)], config), both)


def test_what_goes_on_is_not_clustered_again(planted, tmp_path, monkeypatch):
    """A run that is resumed, and what is left after a consolidation."""
    options = planted.options | {"steps": 10, "start": "clusters", "consolidate": True}
    expected = decompose(planted.model, planted.data, **options)
    calls = []
    original = clusters.clustered
    monkeypatch.setattr(
        trainer_module, "clustered", lambda *a, **k: calls.append(1) or original(*a, **k)
    )
    out = tmp_path / "run"
    options["checkpoint_every"] = 4
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "consolidated", stopped)
        decompose(planted.model, planted.data, out=out, **options)
    assert len(calls) == 1
    found = decompose(planted.model, planted.data, out=out, **options)
    assert len(calls) == 1
    assert torch.equal(found.decoder.weights, expected.decoder.weights)


def stopped(*_):
    raise KeyboardInterrupt


def test_groups_start_at_random():
    assert with_start(TrainingConfig(4, group_size=2), "whitened", "sample").start == "random"
    assert with_start(TrainingConfig(4), "whitened", "sample").start == "clusters"


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
