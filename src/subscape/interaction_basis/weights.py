"""A network as a function of its weights: to shuffle them, or to push them along a direction."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from subscape.interaction_basis.chain import Chain


class Weights(NamedTuple):
    """The weights of a network by name, and the chain that it is with others."""

    tensors: Mapping[str, Tensor]
    chain_of: Callable[[Mapping[str, Tensor]], Chain]
    """Those that are not named stay as they are."""

    def shuffled(self, seed: int) -> Chain:
        """The network with the numbers of every weight in random order: it has forgotten what it learned."""
        return self.chain_of(shuffled(self.tensors, seed))


def of_model(model: nn.Module, chain: Callable[[nn.Module], Chain]) -> Weights:
    """The parameters of a model that `chain` cuts."""
    return Weights(
        {name: p.detach() for name, p in model.named_parameters()},
        lambda tensors: chain(with_weights(model, tensors)),
    )


def shuffled(tensors: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """The same tensors with the numbers of each in random order."""
    generator = torch.Generator().manual_seed(seed)
    orders = {n: torch.randperm(t.numel(), generator=generator) for n, t in tensors.items()}
    return {n: t.flatten()[orders[n].to(t.device)].view_as(t) for n, t in tensors.items()}


def with_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A copy of a model with these parameters."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, values in tensors.items():
            other.get_parameter(name).copy_(values)
    return other
