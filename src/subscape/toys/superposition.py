"""Circuits in superposition, written by hand: T circuits x_t -> ReLU(x_t - 1/S) in a network of width D < T.

One layer of the construction of Bushnaq and Mendel, "Circuits in Superposition" (2024), as changed by
Linsefors and Bushnaq (2025): every circuit is spread over S of the D neurons, any two circuits share one
neuron at most, and a threshold takes away what leaks from one circuit into another. Here the sets of neurons
are lines of the plane over p elements, p prime: D = S p neurons stand in S columns of p, and circuit a p + b
has neuron a i + b (mod p) of column i. Two lines meet once at most, so with one circuit active all outputs
are exact.

The weights are sums of one rank-one term for each circuit, scaled so that these terms are also its gradients
when it is active alone: `Toy.circuits`. Nothing is trained; a seed draws data only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from subscape._checks import require
from subscape._shapes import Bool, Float
from subscape.toys.inputs import SparseInputs
from subscape.toys.toy import Toy
from subscape.toys.training import N_EVALUATION, Maker, ToyTraining


class Superposed(nn.Module):
    """x -> ReLU(W_out ReLU(W_in x) - threshold)."""

    def __init__(self, first: Float[Tensor, "hidden feature"], threshold: float) -> None:
        super().__init__()
        n_hidden, n_features = first.shape
        self.first = nn.utils.skip_init(nn.Linear, n_features, n_hidden, bias=False)
        self.last = nn.utils.skip_init(nn.Linear, n_hidden, n_features, bias=False)
        self.threshold = threshold
        self.first.weight = nn.Parameter(first.clone())
        self.last.weight = nn.Parameter(first.mT.clone())

    def forward(self, x: Float[Tensor, "row feature"]) -> Float[Tensor, "row feature"]:
        """The outputs."""
        return torch.relu(self.last(torch.relu(self.first(x))) - self.threshold)


@Maker
def superposed(
    seeds: Sequence[int],
    n_features: int = 42,
    n_hidden: int = 21,
    n_neurons: int = 3,
    *,
    probability: float = 0.05,
    training: ToyTraining | None = None,
) -> list[Toy]:
    """Write the network, one and the same for all seeds.

    Args:
        seeds: one per toy; they draw the inputs that `final_loss` is measured on.
        n_features: number of circuits T, each with its own input and output.
        n_hidden: width D, `n_neurons` times a prime p; T is p² at most.
        n_neurons: neurons of a circuit, S.
        probability: probability that a circuit is active; T times it are at once.
        training: taken as by the other toys; nothing is trained.
    """
    members = lines(n_features, n_hidden, n_neurons)
    first = members.float() * n_neurons**-0.5
    own = torch.eye(n_features)
    terms = torch.einsum("ht,tc->thc", first, own), torch.einsum("ht,tc->tch", first, own)
    circuits = torch.cat([term.flatten(1) for term in terms], dim=1)
    inputs = SparseInputs(n_features, probability=probability)
    model = Superposed(first, 1 / n_neurons).eval()
    toys = []
    for seed in seeds:
        x = inputs.sample(N_EVALUATION, torch.Generator().manual_seed(4 * seed + 3))
        with torch.no_grad():
            loss = float((model(x) - torch.relu(x - model.threshold)).square().mean())
        toys.append(
            Toy(
                f"superposed-{n_features}-{n_hidden}",
                seed,
                model,
                inputs,
                final_loss=loss,
                single_loss=torch.zeros(n_features),
                represented=torch.ones(n_features, dtype=torch.bool),
                circuits=circuits,
            )
        )
    return toys


def lines(n_circuits: int, n_hidden: int, n_neurons: int) -> Bool[Tensor, "hidden circuit"]:
    """Which neurons each circuit has: `n_neurons` of them, of which it shares one at most with any other."""
    p = n_hidden // n_neurons if n_neurons >= 1 else 0
    require(
        n_neurons >= 2 and p * n_neurons == n_hidden and _prime(p) and p >= n_neurons,
        "n_hidden",
        "n_neurons (2 or more) times a prime that is no smaller",
        f"{n_hidden}, with n_neurons={n_neurons}",
        "21 is 3 × 7, 33 is 3 × 11, 44 is 4 × 11.",
    )
    most = p * p
    require(
        1 <= n_circuits <= most, "n_features", f"1 to {most} for {n_hidden} neurons", n_circuits
    )
    slope, offset = torch.arange(n_circuits) // p, torch.arange(n_circuits) % p
    column = torch.arange(n_neurons)[:, None]
    members = torch.zeros(n_hidden, n_circuits, dtype=torch.bool)
    members[column * p + (slope * column + offset) % p, torch.arange(n_circuits)] = True
    return members


def _prime(n: int) -> bool:
    return n >= 2 and all(n % d for d in range(2, int(n**0.5) + 1))
