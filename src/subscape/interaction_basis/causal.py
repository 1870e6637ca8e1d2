"""What modules do: scores without a module, and with it alone, beside random sets of as many directions.

At one node layer at a time. A direction that is taken away takes its mean; in the harder test of a module alone
all others take the values that they have for another sample, and the worst of several draws counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from subscape._shapes import Float
from subscape.interaction_basis.basis import LayerBasis
from subscape.interaction_basis.chain import Chain, Section
from subscape.interaction_basis.graph import InteractionGraph
from subscape.interaction_basis.modules import Modules
from subscape.interaction_basis.score import Scored

N_RANDOM = 20
"""Random sets beside every module."""
N_DRAWS = 3
"""Of other samples."""


@dataclass(frozen=True)
class Effect:
    """Scores of one module at one node layer."""

    module: int
    layer: int
    n_directions: int
    without: float
    """When its directions take their mean."""
    alone: float
    """When all others take their mean."""
    alone_worst: float
    """When all others take their values of another sample; the worst of some draws."""
    random_without: tuple[float, ...]
    """When as many directions take their mean, drawn from those in any module."""
    random_alone: tuple[float, ...]


def part(
    basis: LayerBasis, directions: Sequence[int], values: Float[Tensor, "... node"]
) -> Float[Tensor, "... node"]:
    """What some directions add to the activations beyond the mean."""
    some = torch.as_tensor(directions, dtype=torch.long, device=values.device)
    return basis.encode(values)[..., some] @ basis.back.to(values)[some]


def without(chain: Chain, layer: int, basis: LayerBasis, directions: Sequence[int]) -> Section:
    """The network when these directions of a node layer take their mean."""

    def run(inputs: Tensor) -> Tensor:
        values = chain.nodes(inputs, layer)[-1]
        return chain.tail(layer, values - part(basis, directions, values))

    return run


def alone(chain: Chain, layer: int, basis: LayerBasis, directions: Sequence[int]) -> Section:
    """The network when all but these directions of a node layer take their mean."""

    def run(inputs: Tensor) -> Tensor:
        values = chain.nodes(inputs, layer)[-1]
        return chain.tail(layer, basis.mean.to(values) + part(basis, directions, values))

    return run


def among_others(
    chain: Chain, layer: int, basis: LayerBasis, directions: Sequence[int], seed: int
) -> Section:
    """The network when all but these directions of a node layer take the values of another sample."""
    generator = torch.Generator().manual_seed(seed)

    def run(inputs: Tensor) -> Tensor:
        values = chain.nodes(inputs, layer)[-1]
        other = values[torch.randperm(len(values), generator=generator)]
        mine = part(basis, directions, values) - part(basis, directions, other)
        return chain.tail(layer, other + mine)

    return run


def module_effects(
    chain: Chain, graph: InteractionGraph, modules: Modules, on: Scored, *, seed: int = 0
) -> list[Effect]:
    """Take away and keep alone every module at every node layer where it has directions and others have too."""
    generator = torch.Generator().manual_seed(seed)
    effects = []
    for layer, basis in enumerate(graph.bases[:-1]):
        pool = sorted(d for m in modules.modules for d in m.directions(layer))
        for number, module in enumerate(modules.modules):
            mine = module.directions(layer)
            if not mine or len(mine) == len(pool):
                continue
            drawn = [
                [pool[k] for k in torch.randperm(len(pool), generator=generator)[: len(mine)]]
                for _ in range(N_RANDOM)
            ]
            worst = min if on.score.higher_is_better else max
            effects.append(
                Effect(
                    number,
                    layer,
                    len(mine),
                    on.of(without(chain, layer, basis, mine)),
                    on.of(alone(chain, layer, basis, mine)),
                    worst(
                        on.of(among_others(chain, layer, basis, mine, seed + draw))
                        for draw in range(N_DRAWS)
                    ),
                    tuple(on.of(without(chain, layer, basis, some)) for some in drawn),
                    tuple(on.of(alone(chain, layer, basis, some)) for some in drawn),
                )
            )
    return effects
