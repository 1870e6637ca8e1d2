import pytest

from subscape.training.recipes import RECIPES, recipe_of, with_recipe


@pytest.mark.parametrize("rows", ["sample", "token", "sampled-token"])
def test_what_a_recipe_says_by_kind_of_row(rows):
    weight = 0.5 if rows == "sample" else "unit"
    whitened = {"reference": "mean", "row_weight": weight, "metric": "kronecker"}
    published = {"reference": "another-row", "row_weight": "norm", "metric": "euclidean"}
    assert recipe_of("whitened", rows) == whitened
    assert recipe_of("published", rows) == published
    chosen = {"reference": None, "row_weight": "output", "metric": None}
    assert with_recipe("whitened", rows, chosen) == whitened | {"row_weight": "output"}
    assert recipe_of("whitened", rows) == whitened  # nothing of the recipes was changed by that


def test_another_name_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"recipe: expected one of \['whitened', 'published'\]"):
        recipe_of("whitend", "token")
    assert set(RECIPES) == {"whitened", "published"}
