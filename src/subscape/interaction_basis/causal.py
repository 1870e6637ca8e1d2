"""What modules do: scores without a module, and with it alone, beside random sets of as many directions.

At one node layer at a time. A direction that is taken away takes its mean; in the harder test of a module alone
all others take the values that they have for another sample, and the worst of several draws counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from subscape._shapes import Float
from subscape.interaction_basis.basis import LayerBasis
from subscape.interaction_basis.chain import Chain, Section
from subscape.interaction_basis.graph import InteractionGraph
from subscape.interaction_basis.modules import Modules
from subscape.interaction_basis.score import Scored

N_RANDOM = 10
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


Edit = Callable[[Tensor], Tensor]
"""From activations of a node layer to others."""


def part(
    basis: LayerBasis, directions: Sequence[int], values: Float[Tensor, "... node"]
) -> Float[Tensor, "... node"]:
    """What some directions add to the activations beyond the mean."""
    some = torch.as_tensor(directions, dtype=torch.long, device=basis.into.device)
    coordinates = (values - basis.mean.to(values)) @ basis.into[:, some].to(values)
    return coordinates @ basis.back[some].to(values)


def without(basis: LayerBasis, directions: Sequence[int]) -> Edit:
    """Give these directions their mean."""
    return lambda values: values - part(basis, directions, values)


def alone(basis: LayerBasis, directions: Sequence[int]) -> Edit:
    """Give all but these directions their mean."""
    return lambda values: basis.mean.to(values) + part(basis, directions, values)


def among_others(basis: LayerBasis, directions: Sequence[int], seed: int) -> Edit:
    """Give all but these directions the values of another sample of the batch."""
    generator = torch.Generator().manual_seed(seed)

    def edit(values: Tensor) -> Tensor:
        other = values[torch.randperm(len(values), generator=generator)]
        return other + part(basis, directions, values) - part(basis, directions, other)

    return edit


def edited(chain: Chain, layer: int, edit: Edit) -> Section:
    """The network with the activations of a node layer edited."""
    return lambda inputs: chain.tail(layer, edit(chain.nodes(inputs, layer)[-1]))


@torch.no_grad()
def module_effects(
    chain: Chain, graph: InteractionGraph, modules: Modules, on: Scored, *, seed: int = 0
) -> list[Effect]:
    """Take away and keep alone every module at every node layer where it has directions and others have too."""
    generator = torch.Generator().manual_seed(seed)
    worst = min if on.score.higher_is_better else max
    effects = []
    for layer, basis in enumerate(graph.bases[:-1]):
        pool = sorted(d for m in modules.modules for d in m.directions(layer))
        mine = [m.directions(layer) for m in modules.modules]
        present = [n for n, directions in enumerate(mine) if 0 < len(directions) < len(pool)]
        if not present:
            continue
        here = on.at(chain, layer)

        def score(edit: Edit, layer: int = layer, here: Scored = here) -> float:
            return here.of(lambda values: chain.tail(layer, edit(values)))

        for number in present:
            drawn = [
                [
                    pool[k]
                    for k in torch.randperm(len(pool), generator=generator)[: len(mine[number])]
                ]
                for _ in range(N_RANDOM)
            ]
            draws = [among_others(basis, mine[number], seed + n) for n in range(N_DRAWS)]
            effects.append(
                Effect(
                    number,
                    layer,
                    len(mine[number]),
                    score(without(basis, mine[number])),
                    score(alone(basis, mine[number])),
                    worst(map(score, draws)),
                    tuple(score(without(basis, some)) for some in drawn),
                    tuple(score(alone(basis, some)) for some in drawn),
                )
            )
    return effects
