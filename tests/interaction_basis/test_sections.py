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
