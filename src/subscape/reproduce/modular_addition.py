"""The one-layer transformer for (a + b) mod p: its chain, its data, and names for its directions.

Three sections, as published: attention with the residual (three positions to the last one), the MLP with
the residual, the unembedding. Weights carry TransformerLens names; there is no normalisation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from subscape._checks import require
from subscape._io import read_tensors
from subscape._shapes import Float, Int
from subscape.interaction_basis import ACCURACY, Affine, Chain, InteractionGraph, Mlp, Scored, Task
from subscape.interaction_basis.sections import Ends
from subscape.interaction_basis.weights import Weights
from subscape.reproduce.fourier import fourier_terms

NAMES = ("ln1.0", "ln2.0", "unembed", "output")
"""Node layers as the published results call them."""
LEAST_SHARE = 0.05
"""Of a second term in a label."""


@dataclass(frozen=True)
class LastPositionAttention:
    """Residual plus attention, read at the last position only, where nothing is masked."""

    query: Float[Tensor, "head node head_node"]
    query_bias: Float[Tensor, "head head_node"]
    key: Float[Tensor, "head node head_node"]
    key_bias: Float[Tensor, "head head_node"]
    value: Float[Tensor, "head node head_node"]
    value_bias: Float[Tensor, "head head_node"]
    out: Float[Tensor, "head head_node node"]
    out_bias: Float[Tensor, " node"]

    def __call__(
        self, values: Float[Tensor, "... position node"]
    ) -> Float[Tensor, "... one_position node"]:
        """Run the section."""
        last = values[..., -1:, :]
        query = _by_head(last, self.query, self.query_bias)
        key = _by_head(values, self.key, self.key_bias)
        value = _by_head(values, self.value, self.value_bias)
        mixed = self._mixed(query, key, value)
        return last + linear(mixed, self.out.flatten(0, 1).mT, self.out_bias)

    def ends(self) -> Ends:
        """Into queries, keys and values and out of what heads mix; the residual goes past."""
        weights = [w.movedim(0, 1).flatten(1) for w in (self.query, self.key, self.value)]
        biases = [b.flatten() for b in (self.query_bias, self.key_bias, self.value_bias)]

        def core(values: Tensor) -> Tensor:
            query, key, value = values.unflatten(-1, (3, *self.query_bias.shape)).unbind(-3)
            return self._mixed(query[..., -1:, :, :], key, value)

        read = Affine(torch.cat(weights, 1), torch.cat(biases))
        write = Affine(self.out.flatten(0, 1), self.out_bias)
        return Ends(read, core, write, torch.eye(len(self.out_bias)).to(self.out))

    def _mixed(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Values of the positions, as the last one's query weighs their keys."""
        scores = (query * key).sum(-1) * self.query.shape[-1] ** -0.5
        return (scores.softmax(-2)[..., None] * value).sum(-3, keepdim=True).flatten(-2)


def _by_head(values: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    # One call for weight and bias: an addition of its own would cost forward mode a copy.
    flat = linear(values, weight.movedim(0, 1).flatten(1).mT, bias.flatten())
    return flat.unflatten(-1, bias.shape)


class ModularAddition(NamedTuple):
    """All pairs of a modulus."""

    train_inputs: Int[Tensor, "sample token"]
    train_labels: Int[Tensor, " sample"]
    test_inputs: Int[Tensor, "sample token"]
    test_labels: Int[Tensor, " sample"]


def modular_addition_chain(
    weights: Mapping[str, Tensor], dtype: torch.dtype = torch.float64
) -> Chain:
    """The chain, computed in `dtype`, from weights by TransformerLens name.

    Node layers ln1.0 (three positions), ln2.0, unembed, output.
    """
    w = {name: tensor.detach().to(dtype) for name, tensor in weights.items()}
    needed = ["embed.W_E", "pos_embed.W_pos", "unembed.W_U", "blocks.0.attn.W_Q"]
    missing = [name for name in needed if name not in w]
    expected = "a one-layer transformer by TransformerLens names"
    require(not missing, "weights", expected, f"no {missing}")
    pieces = [w[f"blocks.0.attn.{kind}_{letter}"] for letter in "QKVO" for kind in "Wb"]

    def embed(tokens: Tensor) -> Tensor:
        return w["embed.W_E"][tokens] + w["pos_embed.W_pos"][: tokens.shape[-1]]

    w_in, b_in, w_out, b_out = (
        w[f"blocks.0.mlp.{name}"] for name in ("W_in", "b_in", "W_out", "b_out")
    )
    mlp = Mlp(w_in, b_in, torch.relu, w_out, b_out, skip=torch.eye(len(w_in)).to(w_in))
    unembed = Affine(w["unembed.W_U"], w["unembed.b_U"])
    sections = (LastPositionAttention(*pieces), mlp, unembed)
    return Chain(NAMES, sections, embed=embed, readout=lambda outputs: outputs[..., -1, :])


def load_modular_addition(path: str | Path, dtype: torch.dtype = torch.float64) -> Chain:
    """The chain of the transformer in a safetensors file."""
    return modular_addition_chain(read_tensors(path), dtype)


def modular_addition_pairs(modulus: int = 113) -> Int[Tensor, "sample token"]:
    """All pairs [a, b, modulus], b running fastest."""
    numbers = torch.arange(modulus)
    pairs = torch.cartesian_prod(numbers, numbers)
    return torch.cat([pairs, pairs.new_full((len(pairs), 1), modulus)], dim=1)


def modular_addition_data(
    modulus: int = 113, train_fraction: float = 0.3, seed: int = 0
) -> ModularAddition:
    """All pairs [a, b, modulus], split at random as published; `train_fraction` rounds down."""
    inputs = modular_addition_pairs(modulus)
    labels = inputs[:, :2].sum(1) % modulus
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    train, test = order.split([n := int(train_fraction * len(inputs)), len(inputs) - n])
    return ModularAddition(inputs[train], labels[train], inputs[test], labels[test])


def modular_addition_task(weights: str | Path, seed: int = 0) -> Task:
    """The transformer for (a + b) mod 113: bases and edges on the training pairs, scores on the others.

    Scored in float32 as published; `seed` is of the split, the published models share 0.
    """
    tensors, data = read_tensors(weights), modular_addition_data(seed=seed)
    chain = modular_addition_chain(tensors)
    scored = Scored(data.test_inputs, data.test_labels, ACCURACY, batch_size=512)
    return Task(
        chain,
        data.train_inputs,
        scored,
        scored_chain=modular_addition_chain(tensors, torch.float32),
        label=lambda graph: fourier_labels(chain, graph),
        weights=Weights(tensors, lambda some: modular_addition_chain({**tensors, **some})),
    )


def pair_tables(
    chain: Chain, graph: InteractionGraph, *, modulus: int = 113, most: int = 30
) -> dict[tuple[int, int], Float[Tensor, "first second"]]:
    """Activations of the `most` important directions, (layer, direction), at every pair; positions added up.

    Of every layer but the logits.
    """
    nodes = chain.nodes(modular_addition_pairs(modulus), len(chain) - 1)
    return {
        (layer, direction): column.reshape(modulus, modulus)
        for layer, values in enumerate(nodes)
        for direction, column in enumerate(graph.bases[layer].encode(values).sum(1).mT[:most])
    }


def fourier_labels(
    chain: Chain, graph: InteractionGraph, *, modulus: int = 113, most: int = 30
) -> dict[tuple[int, int], str]:
    """Names of the waves that directions carry: the largest term, and the next if it counts."""
    labels = {}
    for node, table in pair_tables(chain, graph, modulus=modulus, most=most).items():
        terms = fourier_terms(table)[:2]
        terms = [term for term in terms if term is terms[0] or term.share >= LEAST_SHARE]
        labels[node] = " + ".join(map(str, terms))
    return labels
