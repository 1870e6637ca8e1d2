from dataclasses import replace

import torch

from subscape.gradients import GradientSource
from subscape.reproduce.recipes import reproduction
from subscape.reproduce.toys import reproduce, true_directions
from subscape.reproduce.verdict import (
    LOWER_ELSEWHERE,
    NO_SUCH_DIRECTION,
    SEARCH,
    from_truth,
    verdict,
)
from subscape.targets import Target
from subscape.toys import ToyTraining, tms
from subscape.training import TrainingConfig


def test_the_search_is_to_blame_where_the_truth_stays_and_is_better():
    assert verdict(0.3, 0.2, kept=True) == SEARCH
    assert verdict(0.2, 0.3, kept=True) == LOWER_ELSEWHERE
    assert verdict(0.2, 0.2, kept=True) == LOWER_ELSEWHERE
    assert verdict(0.2, 0.3, kept=False) == verdict(0.3, 0.2, kept=False) == NO_SUCH_DIRECTION


def test_training_begins_at_the_truth_of_every_source():
    toys = tms.many([0, 1], training=ToyTraining(n_steps=50, n_candidates=1))
    sources = [GradientSource(Target(t.model), t.sample(64, torch.Generator())) for t in toys]
    truths = [true_directions(toy, "mse").directions for toy in toys]
    # A step too small to move anything.
    config = TrainingConfig(n_subnetworks=5, rank=1, steps=1, learning_rate=1e-9, batch_size=32)
    for truth, start in zip(truths, from_truth(sources, sources, config, truths), strict=True):
        torch.testing.assert_close(start.decoder.flat().double(), truth, atol=1e-4, rtol=0)


def test_a_seed_that_fails_is_explained():
    what = reproduction("tms")
    training = replace(what.training, steps=5, learning_rate=1e-3, resample_every=0)
    short = {"training": ToyTraining(n_steps=300, n_candidates=2)}
    what = replace(what, training=training, toy_settings=short, n_samples=256)
    results = reproduce(what, [0], explain=True, progress=False)
    # Five steps find nothing, and lose nothing.
    assert results["summary"]["verdicts"] == {0: SEARCH}
    (run,) = results["runs"]
    assert run["kept_from_truth"]
    assert run["min_cosine_from_truth"] > 0.9 > run["min_cosine"]
    assert run["fvu_from_truth"] < run["fvu"]
    assert reproduce(what, [0], progress=False)["summary"]["verdicts"] == {}
