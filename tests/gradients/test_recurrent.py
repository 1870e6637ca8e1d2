"""Recurrent layers by rule, against the loop."""

import pytest
import torch
from torch import nn

from subscape import GradientSource, Target
from tests.conftest import Made
from tests.gradients.conftest import assert_right

N, LENGTH = 4, 3
KINDS = [nn.LSTM, nn.GRU, nn.RNN]


def source_of(layer, forward, rows="sample", **parts):
    model = Made(forward, layer=layer, **parts).double()
    data = torch.randn(N, LENGTH, 4).double()
    return GradientSource(
        Target(model, "layer"), data, rows=rows, engine={"*": "auto"}, reference="uniform"
    )


def hidden(self, x):
    """The last hidden states of all layers and directions."""
    states = self.layer(x)[1]
    return (states[0] if isinstance(states, tuple) else states).transpose(0, 1).flatten(1)


def by_position(self, x):
    return self.readout(self.layer(x)[0])


def from_given_states(self, x):
    first = x[:, 0, :3][None].tanh()
    given = (first, 2 * first) if isinstance(self.layer, nn.LSTM) else first
    return self.layer(x, given)[0].flatten(1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False, "bidirectional": True}],
    ids=["one", "two-both-ways", "no-bias"],
)
def test_outputs_and_last_states(kind, options):
    torch.manual_seed(0)
    layer = kind(4, 3, batch_first=True, **options)
    source = source_of(
        layer, lambda self, x: torch.cat([self.layer(x)[0][:, 1], hidden(self, x)], 1)
    )
    assert set(source.engines.values()) == {"rule"}
    assert_right(source)


@pytest.mark.parametrize("kind", KINDS)
def test_every_position_is_a_row(kind):
    torch.manual_seed(0)
    layer = kind(4, 3, batch_first=True)
    source = source_of(layer, by_position, "token", readout=nn.Linear(3, 2))
    assert set(source.engines.values()) == {"rule"}
    assert_right(source)


@pytest.mark.parametrize("kind", KINDS)
def test_first_states_that_the_model_gives(kind):
    torch.manual_seed(0)
    source = source_of(kind(4, 3, batch_first=True), from_given_states)
    assert set(source.engines.values()) == {"rule"}
    assert_right(source)


def test_two_layers_of_which_the_first_is_chosen_too():
    torch.manual_seed(0)
    model = Made(
        lambda self, x: self.second(self.first(x)[0])[1][0].transpose(0, 1).flatten(1),
        first=nn.GRU(4, 3, batch_first=True),
        second=nn.LSTM(3, 2, batch_first=True),
    ).double()
    data = torch.randn(N, LENGTH, 4).double()
    source = GradientSource(Target(model), data, engine={"*": "auto"}, reference="uniform")
    assert set(source.engines.values()) == {"rule"}
    assert_right(source)
