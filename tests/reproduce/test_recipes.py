from typing import get_args, get_type_hints

import pytest

from subscape.cli.reproduce import ReproduceRun
from subscape.reproduce.basis import TOLERANCES
from subscape.reproduce.recipes import REPRODUCTIONS, reproduction
from subscape.toys import TOYS


def test_every_reproduction_has_its_toy_and_its_place_on_the_command_line():
    assert {what.toy for what in REPRODUCTIONS.values()} <= set(TOYS)
    named = get_args(get_type_hints(ReproduceRun)["name"])
    assert list(named) == [*REPRODUCTIONS, *TOLERANCES, "all"]


def test_the_published_recipe_keeps_what_belongs_to_the_toy():
    ours, published = reproduction("high-rank"), reproduction("high-rank", "published")
    assert (published.n_samples, published.training.steps) == (1_000, 32_000)
    assert published.training.rank == ours.training.rank == 3
    assert published.training.n_subnetworks == ours.training.n_subnetworks == 10
    with pytest.raises(ValueError, match="name: expected one of .* Did you mean 'tmcs'"):
        reproduction("tmc")


def test_other_sizes_have_as_many_subnetworks_for_each_feature():
    assert reproduction("tms").of_toy({"n_features": 20}).training.n_subnetworks == 20
    assert reproduction("high-rank").of_toy({"n_features": 50}).training.n_subnetworks == 20
    larger = reproduction("tms-40-10").of_toy({"n_features": 60, "n_hidden": 12})
    assert (larger.training.n_subnetworks, larger.toy_settings["n_hidden"]) == (60, 12)
    with pytest.raises(
        ValueError, match="n_hidden: expected a setting of the toy; got n_hidden, which"
    ):
        reproduction("squared").of_toy({"n_hidden": 3})
