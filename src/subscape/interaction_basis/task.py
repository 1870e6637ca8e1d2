"""A network with what its interaction graph is computed on and judged by; three that can be had by name.

Any other is a function of one's own that returns a `Task`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from subscape._checks import problem, require
from subscape._shapes import Float
from subscape.data import text_windows
from subscape.interaction_basis.ablation import Scored
from subscape.interaction_basis.chain import Chain
from subscape.interaction_basis.fourier import fourier_terms
from subscape.interaction_basis.graph import InteractionGraph
from subscape.interaction_basis.huggingface import decoder_chain
from subscape.interaction_basis.modular_addition import (
    load_modular_addition,
    modular_addition_data,
    modular_addition_pairs,
)
from subscape.interaction_basis.score import ACCURACY, NEXT_TOKEN
from subscape.interaction_basis.sections import sequential_chain

Labels = Mapping[tuple[int, int], str]

LEAST_SHARE = 0.05
"""Of a second term in a label."""
DIGITS_NAMES = ("pixels", "hidden 1", "hidden 2", "logits")
DIGITS_HIDDEN = 32
DIGITS_STEPS = 1500
DIGITS_BATCH = 128


@dataclass(frozen=True)
class Task:
    """A network, data for its bases and edges, and data to score it on."""

    chain: Chain
    inputs: Tensor
    scored: Scored
    gram_inputs: Tensor | None = None
    """More data for means and covariances."""
    scored_chain: Chain | None = None
    """The same network to score, for instance in float32, which is faster."""
    label: Callable[[InteractionGraph], Labels] | None = None
    """Text for the directions of a graph."""

    @property
    def scoring(self) -> Chain:
        """The network to score."""
        return self.scored_chain or self.chain


def modular_addition_task(weights: str | Path, seed: int = 0) -> Task:
    """The transformer for (a + b) mod 113: bases and edges on the training pairs, scores on the others.

    Args:
        weights: a safetensors file.
        seed: of the split into training and test pairs; the published models share 0.

    Returns:
        The task, scored in float32 as published.
    """
    chain = load_modular_addition(weights)
    data = modular_addition_data(seed=seed)
    return Task(
        chain,
        data.train_inputs,
        Scored(data.test_inputs, data.test_labels, ACCURACY, batch_size=512),
        scored_chain=load_modular_addition(weights, torch.float32),
        label=lambda graph: fourier_labels(chain, graph),
    )


def pair_tables(
    chain: Chain, graph: InteractionGraph, *, modulus: int = 113, most: int = 30
) -> dict[tuple[int, int], Float[Tensor, "first second"]]:
    """What the directions of modular addition are at every pair of numbers.

    Args:
        chain: the transformer.
        graph: its interaction graph.
        modulus: p.
        most: directions per layer, the most important first.

    Returns:
        Activations by (layer, direction), positions added up; the last layer, the logits, is left out.
    """
    nodes = chain.nodes(modular_addition_pairs(modulus), len(chain) - 1)
    tables = {}
    for layer, values in enumerate(nodes):
        coordinates = graph.bases[layer].encode(values).sum(1)[:, :most]
        for direction, column in enumerate(coordinates.mT):
            tables[layer, direction] = column.reshape(modulus, modulus)
    return tables


def fourier_labels(
    chain: Chain, graph: InteractionGraph, *, modulus: int = 113, most: int = 30
) -> dict[tuple[int, int], str]:
    """Name the waves that the directions of modular addition carry.

    Args:
        chain: the transformer.
        graph: its interaction graph.
        modulus: p.
        most: directions per layer that get a name.

    Returns:
        The largest term of every direction and the next if it counts.
    """
    labels = {}
    for node, table in pair_tables(chain, graph, modulus=modulus, most=most).items():
        terms = fourier_terms(table)[:2]
        terms = [term for term in terms if term is terms[0] or term.share >= LEAST_SHARE]
        labels[node] = " + ".join(map(str, terms))
    return labels


def digits_task(seed: int = 0) -> Task:
    """An MLP 64-32-32-10 with ReLU, trained here on scikit-learn's 8 x 8 digits.

    Args:
        seed: of the weights and the split (four fifths to train on).

    Returns:
        The task: bases and edges on the training digits, accuracy on the others.
    """
    images, labels = _digits()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=generator)
    train, test = order.split([n := len(images) * 4 // 5, len(images) - n])
    model = _mlp((64, DIGITS_HIDDEN, DIGITS_HIDDEN, 10), generator)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(DIGITS_STEPS):
        batch = train[torch.randint(0, len(train), (DIGITS_BATCH,), generator=generator)]
        loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    chain = replace(sequential_chain(model.double().eval()), names=DIGITS_NAMES)
    return Task(
        chain, images[train].double(), Scored(images[test].double(), labels[test], ACCURACY)
    )


def decoder_task(
    folder: str | Path,
    text: str | Path,
    *,
    scored_text: str | Path | None = None,
    length: int = 128,
    n_sequences: int = 400,
    n_scored: int = 32,
    seed: int = 0,
) -> Task:
    """A language model and text for it.

    Args:
        folder: a Hugging Face folder with its tokenizer, of the Llama or GPT-2 style.
        text: a text file, stories separated by <|endoftext|>.
        scored_text: another one to score on; by default the last windows of `text`, left out above.
        length: tokens in a window.
        n_sequences: windows for Jacobians and edges, at most; means and covariances take all.
        n_scored: windows to score.
        seed: of the choice of windows.

    Returns:
        The task, scored by the cross-entropy of the next token.
    """
    transformers = _import("transformers", "for a language model", "'subscape[lm]'")
    for name, number, least in (
        ("length", length, 2),
        ("n_sequences", n_sequences, 1),
        ("n_scored", n_scored, 1),
    ):
        require(number >= least, name, f"a whole number of at least {least}", number)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", trust_remote_code=False
    )
    positions = getattr(model.config, "max_position_embeddings", length)
    require(
        length <= positions, "length", f"at most the {positions} positions of the model", length
    )
    windows = text_windows(text, tokenizer, length=length)["input_ids"]
    if scored_text is None:
        require(len(windows) > n_scored, "text", f"over {n_scored} windows", len(windows))
        windows, scored = windows[:-n_scored], windows[-n_scored:]
    else:
        scored = text_windows(scored_text, tokenizer, length=length)["input_ids"]
        require(len(scored) >= n_scored, "scored_text", f"{n_scored} windows", len(scored))
        scored = scored[-n_scored:]
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(seed))
    return Task(
        decoder_chain(model.eval()),
        windows[order[:n_sequences]],
        Scored(scored, scored, NEXT_TOKEN, batch_size=32),
        gram_inputs=windows,
    )


def _mlp(widths: tuple[int, ...], generator: torch.Generator) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n_in, n_out in zip(widths[:-1], widths[1:], strict=True):
        linear = nn.Linear(n_in, n_out)
        with torch.no_grad():
            linear.weight.copy_(torch.randn(n_out, n_in, generator=generator) * (2 / n_in) ** 0.5)
            linear.bias.zero_()
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _digits() -> tuple[Tensor, Tensor]:
    datasets = _import("sklearn.datasets", "for the digits", "scikit-learn")
    images, labels = datasets.load_digits(return_X_y=True)
    return torch.from_numpy(images).float() / 16, torch.from_numpy(labels).long()


def _import(module: str, purpose: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            problem(
                module.partition(".")[0],
                f"to be installed, {purpose}",
                "no such module",
                f"Install it: pip install {package}.",
            )
        ) from error
