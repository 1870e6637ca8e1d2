import dataclasses

import pytest
import torch

from subscape.interaction_basis import Mlp, sequential_chain
from subscape.interaction_basis.basis import raw_basis
from subscape.interaction_basis.build import BasisConfig, build_bases
from subscape.interaction_basis.degeneracy import firing, free_changes, parameter_count, together


def test_parameters_by_hand():
    one, two = raw_basis("x", 3), raw_basis("y", 2)
    few = dataclasses.replace(
        one,
        into=one.into[:, :2],
        back=one.back[:2],
        importance=torch.tensor([1.0, 1e-4]).double(),
    )
    # (3 + 1) x 2 numbers, of which one of three inputs is not used.
    found = parameter_count([few, two])
    assert (found.all, found.effective) == (8, 6)
    assert parameter_count([few, two], rtol=1e-3).effective == 4
    with pytest.raises(ValueError, match="rtol: expected a share"):
        parameter_count([few, two], rtol=1.0)


def test_inputs_that_depend_on_each_other_and_outputs_without_effect_do_not_count():
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)
    ).double()
    # The last layer does not read two of the hidden units.
    model[2].weight.data[:, :2] = 0
    inputs = torch.randn(300, 4, generator=generator).double()
    inputs[:, 3] = inputs[:, 0] - inputs[:, 1]
    bases = build_bases(sequential_chain(model), inputs, BasisConfig(last="raw"))
    found = parameter_count(bases.lib)
    assert found.all == 5 * 5 + 6 * 3
    assert found.effective == 4 * 3 + 4 * 3


def test_units_that_fire_together():
    # Units 0 and 2 fire on positive inputs, 1 on negative ones, 3 on all and 4 never.
    read = torch.tensor([[1.0, -1.0, 2.0, 0.0, 0.0]])
    section = Mlp(read, torch.tensor([0.0, 0.0, 0.0, 1.0, -1.0]), torch.relu)
    values = torch.tensor([[1.0], [2.0], [3.0], [-1.0]])
    likeness = firing(section, values.split(2))
    assert likeness[0, 2] == pytest.approx(1)
    assert likeness[0, 1] == 0
    # On 3 of 4 samples beside all: 3 / sqrt(3 x 4).
    assert likeness[0, 3] == pytest.approx(0.75**0.5)
    assert likeness[4].tolist() == [0] * 5
    assert together(likeness) == [(0, 2)]
    assert together(likeness, 0.8) == [(0, 2, 3)]
    # Three as one: 9 changes instead of 3.
    assert free_changes([(0, 2, 3)]) == 6
    assert together(likeness, 0.1) == [(0, 1, 2, 3)]


def test_neurons_that_fire_together_may_be_mixed():
    torch.manual_seed(0)
    read, bias = torch.randn(3, 2).double(), torch.full((2,), 9.0).double()
    section = Mlp(read, bias, torch.relu, torch.randn(2, 2).double(), torch.zeros(2).double())
    values = torch.rand(20, 3).double()
    (group,) = together(firing(section, [values]))
    assert group == (0, 1)
    mix = torch.tensor([[1.0, 0.1], [0.2, 1.0]]).double()
    mixed = dataclasses.replace(
        section, read=read @ mix, read_bias=bias @ mix, write=mix.inverse() @ section.write
    )
    assert torch.allclose(mixed(values), section(values))
