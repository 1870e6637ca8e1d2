import math
from typing import Any

import pytest
import torch
from torch import nn

import subscape
from subscape import Target
from subscape.finetuning.removal import remove
from subscape.subnetworks.editing import displacement, edited_copy
from tests.subnetworks.conftest import untrained_of


def score(outputs, batch):
    return outputs.square()


@pytest.fixture
def planted():
    """A model that gives 0, with a change along its subnetwork 2 by which it does not."""
    torch.manual_seed(0)
    model = nn.Linear(4, 3, bias=False).double().eval()
    model.weight.data.zero_()
    found = untrained_of(Target(model), 5, settings={"divergence": "mse"})
    change = displacement(found.directions, {2: 0.7})
    changed = edited_copy(model, change)
    again = untrained_of(Target(changed), 5, settings={"divergence": "mse"})
    for mine, theirs in zip(
        again.dictionary.parameters(), found.dictionary.parameters(), strict=True
    ):
        mine.data.copy_(theirs.data)
    return changed, again, torch.randn(30, 4).double()


def test_what_was_planted_along_a_subnetwork_is_taken_away(planted):
    model, found, x = planted
    others = torch.zeros(5, 4).double()
    removal = remove(found, model, 2, x, score, others=others)
    assert removal.reached
    # The score falls with the square: 5 % of it are left after 1 - sqrt(.05) of the way.
    assert removal.delta == pytest.approx(-0.7 * (1 - 0.05**0.5), rel=0.02)
    assert removal.moved_others == 0
    with torch.no_grad(), found.edit(model, removal.deltas):
        assert float(model(x).square().mean()) == pytest.approx(removal.after)
    assert removal.after <= 0.05 * removal.before
    assert "(more is left" not in str(removal)
    assert subscape.remove is remove


def test_no_further_than_the_others_allow(planted):
    model, found, x = planted
    free = remove(found, model, 2, x, score, others=x)
    most = free.moved_others / 4
    bound = remove(found, model, 2, x, score, others=x, most=most)
    assert not bound.reached
    assert bound.moved_others <= most
    assert bound.delta == pytest.approx(free.delta / 2, rel=0.02)
    assert "(more is left than was asked for)" in str(bound)


def test_the_model_stays_as_it_is(planted):
    model, found, x = planted
    before = model.weight.clone()
    remove(found, model, 0, x, score, others=x, most=0.01)
    assert torch.equal(model.weight, before)


def test_what_cannot_be_taken_away_is_refused(planted):
    model, found, x = planted
    number: Any = lambda outputs, batch: 1.0  # noqa: E731
    with pytest.raises(ValueError, match="^score: expected a mean above 0 .*; got 0"):
        remove(found, model, 0, x, lambda o, b: o * 0, others=x)
    with pytest.raises(TypeError, match="^score: expected a tensor of numbers; got float"):
        remove(found, model, 0, x, number, others=x)
    with pytest.raises(ValueError, match="^left: expected a share from 0 to below 1; got 1.0"):
        remove(found, model, 0, x, score, others=x, left=1.0)
    with pytest.raises(ValueError, match="^most: expected a divergence above 0; got nan"):
        remove(found, model, 0, x, score, others=x, most=math.nan)
    with pytest.raises(IndexError, match="^subnetworks: "):
        remove(found, model, 5, x, score, others=x)
