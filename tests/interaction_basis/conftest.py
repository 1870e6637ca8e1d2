from functools import partial

import pytest
import torch
from torch import nn


def random_mlp(generator, widths=(6, 5, 4, 3), activation=nn.Tanh):
    layers = []
    for n_in, n_out in zip(widths[:-1], widths[1:], strict=True):
        linear = nn.Linear(n_in, n_out).double()
        with torch.no_grad():
            linear.weight.copy_(torch.randn(n_out, n_in, generator=generator) / n_in**0.5)
            linear.bias.copy_(0.3 * torch.randn(n_out, generator=generator))
        layers += [linear, activation()]
    return nn.Sequential(*layers[:-1])


def causal_attention(generator, width):
    """A section [sample, position, width] -> the same: residual plus one head of causal attention."""
    q, k, v, o = (
        torch.randn(width, width, generator=generator).double() / width**0.5 for _ in "qkvo"
    )

    def section(values):
        scores = (values @ q) @ (values @ k).mT
        n = values.shape[-2]
        hidden = torch.ones(n, n, dtype=torch.bool).triu(1)
        return values + scores.masked_fill(hidden, -torch.inf).softmax(-1) @ (values @ v) @ o

    return section


class Case:
    """A chain and inputs for it, with its bases and graph."""

    def __init__(self, chain, inputs):
        self.chain, self.inputs = chain, inputs

    def bases(self, **settings):
        from subscape.interaction_basis import BasisConfig, build_bases

        return build_bases(self.chain, self.inputs, BasisConfig(**settings))

    def graph(self, **settings):
        from subscape.interaction_basis import build_graph

        return build_graph(self.chain, self.bases(**settings), self.inputs)


def make(name, mod_add_weights):
    """An MLP, the modular-addition transformer, sequences or a linear network."""
    from subscape.interaction_basis import Affine, Chain, Mlp, sequential_chain
    from subscape.reproduce.modular_addition import modular_addition_chain, modular_addition_data

    generator = torch.Generator().manual_seed(3)

    def draw(*shape):
        return torch.randn(*shape, generator=generator).double()

    if name in ("tanh", "relu"):
        activation = nn.Tanh if name == "tanh" else nn.ReLU
        chain, inputs = sequential_chain(random_mlp(generator, activation=activation)), draw(60, 6)
    elif name == "mod-add":
        chain = modular_addition_chain(mod_add_weights(generator))
        inputs = modular_addition_data(modulus=5, train_fraction=0.9).train_inputs
    elif name == "linear":
        sections = tuple(Affine(draw(5, 5), draw(5)) for _ in range(2))
        chain, inputs = Chain(("a", "b", "c"), sections), draw(40, 5)
    elif name == "sequence":
        mlp = Mlp(
            draw(4, 7) / 2, draw(7), torch.tanh, draw(7, 4) / 3, draw(4), torch.eye(4).double()
        )
        sections = (causal_attention(generator, 4), mlp, Affine(draw(4, 3), draw(3)))
        chain, inputs = Chain(("in", "mid", "end", "out"), sections), draw(30, 3, 4)
    else:
        raise KeyError(name)
    return Case(chain, inputs)


@pytest.fixture
def example(mod_add_weights):
    return partial(make, mod_add_weights=mod_add_weights)
