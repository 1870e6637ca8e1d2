"""Recurrent layers by rule, against the loop."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from subscape import GradientSource, Target
from tests.conftest import Made
from tests.gradients.conftest import assert_right

N, LENGTH = 4, 3
KINDS = [nn.LSTM, nn.GRU, nn.RNN]


LENGTHS = torch.tensor([2, 3, 1, 3])
LAYOUTS = ["samples first", "steps first", "packed", "packed, of one length"]


def called(layer, x, given=None, layout="samples first"):
    """A layer's output with samples first, and its last states, whatever the layout that it is called in."""
    if layout == "samples first":
        return layer(x, given)
    if layout == "steps first":
        out, states = layer(x.transpose(0, 1), given)
        return out.transpose(0, 1), states
    equal = layout == "packed, of one length"
    lengths = torch.full((len(x),), LENGTH) if equal else x[:, 0, 0].detach().long()
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=equal)
    out, states = layer(packed, given)
    return pad_packed_sequence(out, batch_first=True, total_length=LENGTH)[0], states


def source_of(layer, forward, rows="sample", engine="auto", **parts):
    model = Made(forward, layer=layer, **parts).double()
    data = torch.randn(N, LENGTH, 4).double()
    data[:, 0, 0] = LENGTHS
    return GradientSource(
        Target(model, "layer"), data, rows=rows, engine={"*": engine}, reference="uniform"
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


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", [*KINDS, "projected"])
@pytest.mark.parametrize("rows", ["sample", "token"])
def test_every_layout_and_projections(layout, kind, rows):
    torch.manual_seed(0)
    projected = kind == "projected"
    size, kind = (2 if projected else 3), nn.LSTM if projected else kind
    options = {"proj_size": 2} if projected else {}
    first = layout != "steps first"
    layer = kind(4, 3, num_layers=2, bidirectional=True, batch_first=first, **options)

    def forward(self, x):
        start = x[:, 0, :3].tanh().expand(4, -1, -1)
        start = (start[..., :size], 2 * start) if kind is nn.LSTM else start
        out, states = called(self.layer, x, start, layout)
        if rows == "token":
            return self.readout(out)
        states = states if isinstance(states, tuple) else (states,)
        return torch.cat([out[:, 1], *(s.transpose(0, 1).flatten(1) for s in states)], 1)

    source = source_of(layer, forward, rows, readout=nn.Linear(2 * size, 2))
    assert set(source.engines.values()) == {"rule"}
    assert_right(source)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_a_model_that_sorts_its_sequences_goes_through_the_loop():
    # The layer's samples are then in another order than the model's, which no rule can know.
    torch.manual_seed(0)

    def forward(self, x):
        order = x[:, 0, 0].argsort(descending=True)
        packed = pack_padded_sequence(x[order], x[order, 0, 0].long(), batch_first=True)
        return self.layer(packed)[1][0][order.argsort()]

    with pytest.warns(UserWarning, match="made one by one.*rule of layer: off by"):
        source = source_of(nn.GRU(4, 3, batch_first=True), forward)
    assert set(source.engines.values()) == {"loop"}
    assert_right(source)


def test_a_recurrent_layer_cannot_be_replayed():
    with pytest.raises(ValueError, match="a replay of 'layer'"):
        source_of(
            nn.LSTM(4, 3, batch_first=True), by_position, "token", "replay", readout=nn.Linear(3, 2)
        )
