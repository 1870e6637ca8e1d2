"""Activations in the middle as outputs: do codes of the network for (a + b) mod 113 separate by frequency?

    SUBSCAPE_DATA=… python experiments/modular_addition.py --write docs/open-questions.md

Claim: with the hidden layer as output a subnetwork of the MLP's first matrix belongs to one frequency, which
it does not with logits as outputs. The MLP of the one-layer transformer, over what attention gives for all
113 × 113 pairs; 40 subnetworks, 4 active. Share: of the variance of a code over all pairs, how much lies in
one frequency k (a code is a product of activations, so its waves of 2k count as k's in the second column);
mean over the subnetworks that are in use. Controls: random directions of the same norms and ranks, and the
neurons themselves, as the most that can be expected. About 5 minutes on one core. Expected: a share of at
least .7 in one honest setting, or the table of what was tried.
"""

import os
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from page import Record, draw, kept, main
from torch import Tensor, nn

import subscape
from subscape import Decomposition, GradientSource, Target
from subscape._io import read_tensors
from subscape.reproduce.fourier import frequency_shares
from subscape.reproduce.modular_addition import modular_addition_chain, modular_addition_pairs
from subscape.rows import generator_of
from subscape.scorecard.chance import chance_of
from subscape.subnetworks.evaluation import DEAD_RATE

P = 113
N_SUBNETWORKS = 40


class Mlp(nn.Module):
    """The MLP with its residual and the unembedding, over the stream that it reads."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.unembed = (
            linear(weights[f"{name}.W_{kind}"], weights[f"{name}.b_{kind}"])
            for name, kind in (("blocks.0.mlp", "in"), ("blocks.0.mlp", "out"), ("unembed", "U"))
        )

    def forward(self, x: Tensor, until: str = "logits") -> Tensor:
        hidden = torch.relu(self.first(x))
        if until == "hidden":
            return hidden
        stream = x + self.last(hidden)
        return stream if until == "stream" else self.unembed(stream)[..., :P]


def linear(w: Tensor, b: Tensor) -> nn.Linear:
    """x W + b, W as [from, to]."""
    layer = nn.Linear(w.shape[0], w.shape[1])
    layer.weight.data.copy_(w.mT)
    layer.bias.data.copy_(b)
    return layer


def hidden(model: Any, x: Tensor) -> Tensor:
    return model(x, "hidden")


def stream(model: Any, x: Tensor) -> Tensor:
    return model(x, "stream")


def logits(model: Any, x: Tensor) -> Tensor:
    return model(x)


EUCLIDEAN = {"row_weight": "norm", "metric": "euclidean", "reference": "mean"}
SETTINGS: dict[str, dict[str, Any]] = {
    "logits, published": {"outputs": logits, "divergence": "kl", "recipe": "published"},
    "logits, mean reference": {"outputs": logits, "divergence": "kl", **EUCLIDEAN},
    "logits, whitened": {"outputs": logits, "divergence": "kl"},
    "hidden layer, published": {"outputs": hidden, "recipe": "published"},
    "hidden layer, mean reference": {"outputs": hidden, **EUCLIDEAN},
    "hidden layer, whitened": {"outputs": hidden},
    "hidden layer, whitened, 4 directions each": {"outputs": hidden, "group_size": 4},
    "hidden layer, uniform reference": {"outputs": hidden, **EUCLIDEAN, "reference": "uniform"},
    "hidden layer, mean reference, 4 directions each": {
        "outputs": hidden,
        **EUCLIDEAN,
        "group_size": 4,
    },
    "hidden layer, bias only, mean reference": {
        "outputs": hidden,
        **EUCLIDEAN,
        "parameters": "first.bias",
    },
    "hidden layer, bias only, whitened": {"outputs": hidden, "parameters": "first.bias"},
    "stream after the MLP, mean reference": {"outputs": stream, **EUCLIDEAN},
    "stream after the MLP, whitened": {"outputs": stream},
}


def inputs_of(weights: dict[str, Tensor]) -> Tensor:
    """What the MLP reads at the last position, for all pairs, b running fastest."""
    chain = modular_addition_chain(weights, torch.float32)
    nodes = chain.nodes(modular_addition_pairs(P), 2)
    return nodes[1][:, -1].float()


def shares(codes: Tensor) -> list[tuple[float, float]]:
    """Of every code's variance over all pairs the share of one frequency: alone, and with its double."""
    found = []
    for code in codes.mT:
        of = frequency_shares(code.view(P, P).double())
        if of:
            double = {k: v + of.get(min(2 * k % P, P - 2 * k % P), 0.0) for k, v in of.items()}
            found.append((max(of.values()), max(double.values())))
    return found


def decomposed(model: Mlp, x: Tensor, name: str, seed: int, steps: int) -> Record:
    options = dict(SETTINGS[name])
    parameters = options.pop("parameters", "first.weight")
    target = Target(model, parameters, outputs=options.pop("outputs"))
    order = torch.randperm(len(x), generator=generator_of(seed, 95))
    result = subscape.decompose(
        target,
        x[order[1_000:]],
        heldout=x[order[:1_000]],
        n_subnetworks=N_SUBNETWORKS,
        l0=4.0,
        rank=1,
        steps=steps,
        batch_size=256,
        seed=seed,
        progress=False,
        **options,
    )
    # Over all pairs every row has one code, so one partner too: the mean of all.
    again: dict[str, Any] = {} if result.reference is not None else {"reference": "mean"}
    if name.endswith("uniform reference"):
        again = {"reference": "uniform"}
    source = result.source(target, x, **again)
    alive = torch.tensor(result.metrics["active_rate"]) > DEAD_RATE
    own, chance = (
        [
            *zip(
                *shares(of_all_pairs(one, source)[:, alive if one is result else slice(None)]),
                strict=True,
            )
        ]
        for one in (result, chance_of(result))
    )
    return {
        "share": mean(own[0]),
        "with_double": mean(own[1]),
        "random": mean(chance[0]),
        "random_double": mean(chance[1]),
        "pure": sum(s >= 0.7 for s in own[0]) / len(own[0]),
        "pure_double": sum(s >= 0.7 for s in own[1]) / len(own[1]),
        "fvu": result.metrics["fvu"],
        "alive": int(alive.sum()),
    }


@torch.no_grad()
def of_all_pairs(result: Decomposition, source: GradientSource) -> Tensor:
    parts = torch.arange(len(source)).split(512)
    return torch.cat([result.coefficients(source.gradients(source.rows_of(p))) for p in parts])


def measure(
    out: Path,
    *,
    checkpoint: int = 0,
    seeds: int = 1,
    steps: int = 200,
    settings: Any = tuple(SETTINGS),
) -> list[Record]:
    path = Path(os.environ["SUBSCAPE_DATA"]) / "rib_modadd" / f"seed{checkpoint}.safetensors"
    weights = read_tensors(path)
    model, x = Mlp(weights).eval(), inputs_of(weights)
    records = []
    for number, name in enumerate(SETTINGS):
        if name not in settings:
            continue
        runs = kept(
            out / f"{number}-{checkpoint}-{seeds}-{steps}.json",
            lambda name=name: [decomposed(model, x, name, seed, steps) for seed in range(seeds)],
        )
        records.append({"outputs": name, **{k: mean(r[k] for r in runs) for k in runs[0]}})
    with torch.no_grad():
        own = [*zip(*shares(hidden(model, x)), strict=True)]
    neurons = {
        "share": mean(own[0]),
        "with_double": mean(own[1]),
        "pure": sum(s >= 0.7 for s in own[0]) / len(own[0]),
        "pure_double": sum(s >= 0.7 for s in own[1]) / len(own[1]),
    }
    blank = {"random": float("nan"), "random_double": float("nan"), "fvu": float("nan")}
    records.append({"outputs": "activations of the neurons themselves", **neurons, **blank})
    return records


COLUMNS = {
    "outputs": "{outputs}",
    "share in one frequency": "{share:.2f}",
    "random directions": "{random:.2f}",
    "with its double": "{with_double:.2f}",
    "random, with double": "{random_double:.2f}",
    "codes at .7": "{pure:.0%}",
    "with double": "{pure_double:.0%}",
    "FVU": "{fvu:.2f}",
}


def picture(path: Path, records: list[Record]) -> None:
    at = list(range(len(records)))
    keys = ("share", "random", "with_double", "random_double")
    lines = {key.replace("_", " "): (at, [r[key] for r in records]) for key in keys}
    draw(path, lines, x="line of the table", y="share in one frequency", joined=False)


if __name__ == "__main__":
    main("modular-addition", __doc__, measure, COLUMNS, picture)
