"""Which subnetworks act through which modules: where a push of the weights moves the activations.

A subnetwork is a direction v in the space of weights, a module a set of directions of node layers. The energy of v
in direction j of a node layer is

    e_j = mean over samples and positions of ( d f_hat_j / d v )^2

In the Local Interaction Basis the mean square Jacobian to the next layer is the identity, so that energies of a
layer add up. A module's share is what its directions have of the whole layer, the mean over the node layers that
v moves and modules have directions in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from subscape._checks import require
from subscape._progress import bar
from subscape._shapes import Float
from subscape.interaction_basis.chain import batches
from subscape.interaction_basis.graph import InteractionGraph
from subscape.interaction_basis.modules import Modules
from subscape.interaction_basis.weights import Weights

STEP = 1e-3
"""Length of a push, as a share of that of the weights it moves."""
MOVED = 1e-12
"""Least energy of a layer that is moved, as a share of that of the layer moved most."""
BATCH = 256

Push = Mapping[str, Tensor]
"""A direction in the space of weights, by name; other weights stay."""


@dataclass(frozen=True)
class Bridge:
    """Shares of energy of subnetworks, and of controls."""

    shares: Mapping[str, Float[Tensor, "push module"]]
    """By kind of push, such as `subnetworks` and `random`; the last column is what lies in no module."""

    def largest(self, kind: str) -> Float[Tensor, " push"]:
        """Of every push the largest share of one module."""
        return self.shares[kind][:, :-1].amax(1)

    def mean_largest(self, kind: str) -> float:
        """The mean over pushes of the largest share of one module."""
        return float(self.largest(kind).mean())


def module_shares(
    weights: Weights,
    graph: InteractionGraph,
    modules: Modules,
    pushes: Mapping[str, Sequence[Push]],
    inputs: Tensor,
    *,
    batch_size: int = BATCH,
    progress: bool = False,
) -> Bridge:
    """Measure through which modules pushes act.

    Args:
        weights: the network as a function of its weights; see `Task.weights`.
        graph: of the same network.
        modules: of the graph.
        pushes: by kind, such as the subnetworks of a decomposition beside random directions; any length.
        inputs: samples over which energies are averaged.
        batch_size: samples that run together.
        progress: whether to show a bar.

    Raises:
        ValueError: if there are no modules, or a push moves no node layer that has directions in a module.
    """
    require(bool(modules.modules), "modules", "at least one module", "none")
    layers = sorted({layer for layer, _ in modules.of()})
    n = sum(map(len, pushes.values()))
    shares: dict[str, Tensor] = {}
    with bar("bridge", total=n, progress=progress) as done:
        for kind, some in pushes.items():
            rows = []
            for push in some:
                energies = push_energy(weights, graph, push, inputs, layers, batch_size=batch_size)
                rows.append(_shares(energies, modules))
                done.update()
            shares[kind] = torch.stack(rows)
    return Bridge(shares)


@torch.no_grad()
def push_energy(
    weights: Weights,
    graph: InteractionGraph,
    push: Push,
    inputs: Tensor,
    layers: Sequence[int],
    *,
    batch_size: int = BATCH,
) -> dict[int, Float[Tensor, " direction"]]:
    """Energy of a push in every direction of some node layers, per unit length of the push."""
    _check(weights, push)
    length = _norm(push)
    step = STEP * _norm({name: weights.tensors[name] for name in push}) / length
    ends = [
        weights.chain_of({
            name: weights.tensors[name] + (sign * step * d).to(weights.tensors[name])
            for name, d in push.items()
        })
        for sign in (1, -1)
    ]
    energies = {
        layer: torch.zeros(graph.bases[layer].rank, dtype=torch.float64) for layer in layers
    }
    for some in batches(inputs, batch_size):
        forth, back = (chain.nodes(some, max(layers)) for chain in ends)
        for layer in layers:
            moved = (forth[layer].double() - back[layer].double()) / (2 * step * length)
            coordinates = moved @ graph.bases[layer].into.to(moved)
            squares = coordinates.square().flatten(0, -2)
            # Of a last batch with fewer samples each sample counts as much.
            energies[layer] += squares.mean(0).cpu() * len(some) / len(inputs)
    return energies


def _shares(
    energies: Mapping[int, Float[Tensor, " direction"]], modules: Modules
) -> Float[Tensor, " module"]:
    """Of the layers that are moved, the mean share of every module, and of no module."""
    most = max(float(energy.sum()) for energy in energies.values())
    require(
        most > 0,
        "pushes",
        "directions of weights that come before a node layer with a module",
        "one that moves none",
    )
    rows = []
    for layer, energy in energies.items():
        whole = float(energy.sum())
        if whole <= MOVED * most:
            continue
        inside = [float(energy[list(m.directions(layer))].sum()) / whole for m in modules.modules]
        rows.append(torch.tensor([*inside, max(0.0, 1 - sum(inside))], dtype=torch.float64))
    return torch.stack(rows).mean(0)


def _check(weights: Weights, push: Push) -> None:
    require(bool(push), "pushes", "at least one weight each", "none")
    for name, direction in push.items():
        there = weights.tensors.get(name)
        require(
            there is not None and there.shape == direction.shape,
            "pushes",
            "weights of the network, each of its shape",
            f"{name!r} of shape {list(direction.shape)}"
            + ("" if there is None else f" for {list(there.shape)}"),
            "The decomposition and the run have to be of the same model.",
        )
    require(_norm(push) > 0, "pushes", "directions of some length", "one of length 0")


def _norm(tensors: Mapping[str, Tensor]) -> float:
    return sum(float(t.double().square().sum()) for t in tensors.values()) ** 0.5
