import pytest
import torch

from subscape.interaction_basis import ACCURACY, DISTANCE, Affine, Chain, InteractionGraph, Scored
from subscape.interaction_basis.basis import raw_basis
from subscape.interaction_basis.causal import (
    alone,
    among_others,
    edited,
    module_effects,
    part,
    without,
)
from subscape.interaction_basis.modules import Module, Modules


def identity_chain(n=4):
    eye, zero = torch.eye(n).double(), torch.zeros(n).double()
    return Chain(("a", "b", "c"), (Affine(eye, zero), Affine(eye, zero)))


@pytest.mark.parametrize("name", ["tanh", "mod-add", "sequence"])
def test_with_all_directions_alone_and_with_none_taken_away_nothing_changes(example, name):
    case = example(name)
    basis = case.bases().lib[1]
    wanted = case.chain.outputs(case.inputs)
    everything = range(basis.rank)
    assert torch.equal(edited(case.chain, 1, without(basis, []))(case.inputs), wanted)
    # What LIB dropped has no effect.
    assert torch.allclose(
        edited(case.chain, 1, alone(basis, everything))(case.inputs), wanted, atol=1e-8
    )
    # A part taken away and the rest alone are the same.
    some, rest = range(2), range(2, basis.rank)
    one = edited(case.chain, 1, without(basis, some))(case.inputs)
    assert torch.allclose(one, edited(case.chain, 1, alone(basis, rest))(case.inputs), atol=1e-8)
    values = case.chain.nodes(case.inputs)[1]
    assert torch.allclose(
        part(basis, everything, values) + basis.mean, basis.decode(basis.encode(values)), atol=1e-9
    )


def test_others_come_from_another_sample():
    chain, basis = identity_chain(), raw_basis("b", 4)
    inputs = torch.arange(20.0).reshape(5, 4).double()
    out = edited(chain, 1, among_others(basis, [0, 2], seed=0))(inputs)
    assert torch.equal(out[:, [0, 2]], inputs[:, [0, 2]])
    assert not torch.equal(out[:, [1, 3]], inputs[:, [1, 3]])
    assert torch.equal(out[:, 1].sort().values, inputs[:, 1])


def test_effects_of_two_modules_by_hand():
    # Outputs are the inputs; module 0 holds directions 0 and 1, module 1 the two others.
    chain = identity_chain()
    bases = tuple(raw_basis(n, 4) for n in "abc")
    graph = InteractionGraph(bases, (torch.eye(4).double(),) * 2)
    members = [tuple((layer, d) for layer in (0, 1) for d in pair) for pair in ((0, 1), (2, 3))]
    modules = Modules(tuple(Module(m, 1.0) for m in members), 0.5, 1.0, 0.0)
    inputs = torch.tensor([[3.0, 0, 1, 0], [-3.0, 0, -1, 0]]).double()
    found = module_effects(chain, graph, modules, Scored(inputs, inputs, DISTANCE))
    assert [(e.module, e.layer, e.n_directions) for e in found] == [
        (0, 0, 2),
        (1, 0, 2),
        (0, 1, 2),
        (1, 1, 2),
    ]
    # Of the variance 10 the first module holds 9.
    assert found[0].without == pytest.approx(0.9) == found[1].alone
    assert found[1].without == pytest.approx(0.1) == found[0].alone
    assert len(found[0].random_without) == 10
    assert {round(x, 6) for x in found[0].random_without} <= {0.0, 0.1, 0.9, 1.0}
    labels = torch.tensor([0, 2])
    accuracy = module_effects(chain, graph, modules, Scored(inputs, labels, ACCURACY))
    assert accuracy[0].alone_worst <= accuracy[0].alone
