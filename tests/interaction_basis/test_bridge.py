import dataclasses

import pytest
import torch

from subscape.interaction_basis import Affine, Chain, InteractionGraph, Modules
from subscape.interaction_basis.basis import raw_basis
from subscape.interaction_basis.bridge import module_shares, push_energy
from subscape.interaction_basis.modules import Module
from subscape.interaction_basis.weights import Weights

NO_BIAS = torch.zeros(4).double()
INPUTS = torch.tensor([[1.0, 0, 0, 0], [0, 2, 0, 0]]).double()
"""Mean squares of the first two coordinates: 1/2 and 2."""


def network():
    """y = x W V, of which W and V can change."""
    own = {"w": torch.eye(4).double(), "v": torch.eye(4).double()}

    def chain_of(some):
        w, v = (({**own, **some})[name] for name in "wv")
        return Chain(("x", "h", "y"), (Affine(w, NO_BIAS), Affine(v, NO_BIAS)))

    return Weights(own, chain_of)


def graph_and_modules():
    bases = tuple(raw_basis(name, 4) for name in "xhy")
    graph = InteractionGraph(bases, (torch.eye(4).double(),) * 2)
    members = (((0, 0), (1, 0), (1, 1)), ((0, 2), (1, 2)))
    modules = Modules(tuple(Module(m, 1.0) for m in members), 0.5, 1.0, 0.0)
    return graph, modules


def push(name, *places):
    direction = torch.zeros(4, 4).double()
    for place in places:
        direction[place] = 1
    return {name: direction}


def test_energy_by_hand():
    graph, _ = graph_and_modules()
    # W is moved from the first input to the third unit: d h_2 = x_0, of a mean square of 1/2.
    energy = push_energy(network(), graph, push("w", (0, 2)), INPUTS, [0, 1], batch_size=1)
    assert energy[0].tolist() == [0, 0, 0, 0]
    assert energy[1] == pytest.approx(torch.tensor([0, 0, 0.5, 0]).double(), abs=1e-9)
    # A push three times as long is the same direction.
    longer = {"w": 3 * push("w", (0, 2))["w"]}
    assert push_energy(network(), graph, longer, INPUTS, [1])[1][2] == pytest.approx(0.5)


def test_shares_of_modules_by_hand():
    graph, modules = graph_and_modules()
    pushes = {
        "mine": [push("w", (0, 2)), push("w", (0, 0), (1, 3))],
        "other": [push("w", (0, 1), (1, 2))],
    }
    found = module_shares(network(), graph, modules, pushes, INPUTS)
    # All in the second module; 1/2 in the first beside 2 in none; 1/2 and 2 in the two.
    assert found.shares["mine"] == pytest.approx(torch.tensor([[0, 1, 0], [0.2, 0, 0.8]]).double())
    assert found.shares["other"] == pytest.approx(torch.tensor([[0.2, 0.8, 0]]).double())
    assert found.mean_largest("mine") == pytest.approx(0.6)
    assert found.largest("other").tolist() == pytest.approx([0.8])


def test_what_cannot_be_measured_is_refused():
    graph, modules = graph_and_modules()

    def said(some, modules=modules):
        with pytest.raises(ValueError) as error:
            module_shares(network(), graph, modules, {"mine": [some]}, INPUTS)
        return str(error.value)

    # V comes after the last node layer with a module.
    assert "come before a node layer with a module" in said(push("v", (0, 0)))
    assert "got 'u' of shape [4, 4]" in said(push("u", (0, 0)))
    assert "got 'w' of shape [2, 2] for [4, 4]" in said({"w": torch.ones(2, 2)})
    assert "directions of some length" in said(push("w"))
    assert "at least one module" in said(
        push("w", (0, 0)), dataclasses.replace(modules, modules=())
    )
