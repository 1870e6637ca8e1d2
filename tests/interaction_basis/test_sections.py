import pytest
import torch
from torch import nn

from subscape.interaction_basis import Affine, Mlp, sequential_chain


@pytest.mark.parametrize(
    "activation", [nn.ReLU(), nn.ReLU(inplace=True), nn.GELU(), nn.SiLU(), nn.Tanh(), nn.Softplus()]
)
def test_a_sequential_model_is_cut_before_every_linear_layer(activation):
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(6, 5), activation, nn.Dropout(0.5), nn.Linear(5, 4, bias=False)
    ).double()
    inputs = torch.randn(7, 2, 3).double()
    chain = sequential_chain(model)
    assert chain.names == ("1", "4", "output")
    assert [type(s) for s in chain.sections] == [Mlp, Affine]
    assert torch.allclose(chain.outputs(inputs), model.eval()(inputs), atol=1e-12)


def test_the_slope_is_the_derivative_of_the_activation():
    section = Mlp(torch.eye(3).double(), torch.zeros(3).double(), torch.relu)
    assert section.slope(torch.tensor([[-1.0, 2.0, 3.0]]).double()).tolist() == [[0.0, 1.0, 1.0]]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([nn.Conv1d(2, 2, 1)], r"model \(0\): .*got Conv1d.*sections yourself"),
        ([nn.Linear(2, 2), nn.LayerNorm(2)], "got LayerNorm"),
        ([nn.Linear(2, 2), nn.ReLU(), nn.ReLU()], "got ReLU"),
        ([], "at least one linear layer"),
    ],
)
def test_unknown_layers_are_named(layers, message):
    with pytest.raises(ValueError, match=message):
        sequential_chain(nn.Sequential(*layers))


class Forgetful(nn.Sequential):
    """Layers in a row, with a forward of its own."""

    def forward(self, values):
        return torch.relu(self[0](values)) + values


class WithSkip(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, values):
        return self.two(self.one(values).relu()) + values


@pytest.mark.parametrize("model", [Forgetful(nn.Linear(3, 3)), WithSkip()])
def test_a_forward_of_its_own_is_not_ignored(model):
    with pytest.raises(ValueError, match=r"got (Forgetful|WithSkip)\. Cut .* chain_from\(model"):
        sequential_chain(model)


def test_a_hook_that_changes_outputs_is_noticed():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    model[0].register_forward_hook(lambda module, given, result: result + 1)
    with pytest.raises(ValueError, match="give the model's own outputs; got outputs that differ"):
        sequential_chain(model)


def test_nested_sequences_are_taken_apart_and_modes_kept():
    model = nn.Sequential(
        nn.Sequential(nn.Linear(3, 4), nn.Tanh()), nn.Dropout(0.5), nn.Sequential(nn.Linear(4, 2))
    ).train()
    chain = sequential_chain(model)
    assert chain.names == ("0.0", "2.0", "output")
    assert all(module.training for module in model.modules())
