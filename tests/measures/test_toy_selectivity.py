"""Selectivity on a toy whose circuits are known: subnetworks act on the rows of their feature."""

import math

import pytest
import torch

from subscape import GradientSource, Target
from subscape.measures import RowSet, delta_of_change, outputs_at, random_like, sweep
from subscape.measures.impact import coefficients_over_references, draws_of
from subscape.measures.selectivity import selectivity, spread
from subscape.reproduce.recipes import reproduction
from subscape.rows import generator_of
from subscape.toys import TOYS
from subscape.training import train_side_by_side

N_ROWS = 600


@pytest.mark.slow
def test_tms_subnetworks_are_selective():
    what = reproduction("tms")
    (toy,) = TOYS[what.toy]([0])
    target = Target(toy.model)
    sizes = 4000, 2000, N_ROWS
    inputs = [toy.sample(n, generator_of(0, 7, part)) for part, n in enumerate(sizes)]
    train, heldout, fresh = (
        GradientSource(target, x, divergence=what.divergence, seed=part)
        for part, x in enumerate(inputs)
    )
    (found,) = train_side_by_side([train], [heldout], what.training, progress=False)
    (draws,) = draws_of(fresh, torch.arange(N_ROWS), 20, N_ROWS, first=0)
    coefficients, _ = coefficients_over_references(fresh, draws, found.encoder)
    impact = coefficients.abs().mean(0)
    active = toy.inputs.active_groups(inputs[2])
    rows = RowSet(torch.arange(N_ROWS))
    base = outputs_at(target, inputs[2], rows)
    control = random_like(found.decoder)
    features, at_random = [], []
    for k in range(len(found)):
        # The feature that is active where its impact is largest.
        order = impact[:, k].argsort(descending=True)
        feature = int(active[order[:30]].float().mean(0).argmax())
        features.append(feature)
        n_relevant = int(active[:, feature].sum()) // 2
        relevant = torch.zeros(N_ROWS, dtype=torch.bool)
        relevant[order[:n_relevant]] = True
        assert active[relevant, feature].float().mean() > 0.95
        size = spread(base[relevant], fresh.divergence)

        def found_at(direction, relevant=relevant, size=size):
            top = inputs[2], rows.select(relevant)
            delta = delta_of_change(target, *top, direction, fresh.divergence, size)
            assert math.isfinite(delta)
            both = [delta, -delta]
            moved = sweep(target, inputs[2], rows, direction, both, fresh.divergence, base=base)
            return selectivity(moved.change, relevant, delta)

        assert found_at(found[k].dense()).auroc >= 0.95
        at_random.append(found_at(control.select(k).dense()).auroc)
    assert sorted(features) == list(range(toy.n_groups))
    # A random direction moves some feature too, but not this one's in particular.
    assert sum(at_random) / len(at_random) < 0.8
