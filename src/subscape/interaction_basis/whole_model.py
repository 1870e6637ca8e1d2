"""A task from any model: cut by names of modules, its data divided, its score chosen by what the data is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from subscape._checks import require
from subscape.interaction_basis.chain import Chain
from subscape.interaction_basis.cuts import Layout, Outputs, chains_from, main_output
from subscape.interaction_basis.score import ACCURACY, DISTANCE, NEXT_TOKEN, Score, Scored
from subscape.interaction_basis.task import Task
from subscape.interaction_basis.weights import Weights

CAUSAL = ("CausalLM", "LMHeadModel")
"""How classes of Hugging Face models that foretell the next token are called."""


def model_task(
    model: nn.Module,
    cuts: Sequence[str],
    inputs: Tensor,
    *,
    labels: Tensor | None = None,
    score: Score | None = None,
    layout: Layout = "channel",
    outputs: Outputs = main_output,
    n_samples: int = 400,
    n_scored: int = 256,
    seed: int = 0,
    batch_size: int = 64,
    words: Callable[[Tensor], list[str]] | None = None,
) -> Task:
    """Cut a model and divide its data: some samples are scored, all others give means and covariances.

    With labels the score is the accuracy, of a causal language model the next token's cross-entropy, and of any
    other the distance from its own outputs, as a share of their variance.

    Args:
        model: as `chain_from` takes it, with `cuts`, `layout` and `outputs`.
        cuts: see there.
        inputs: data as the model takes it, samples first; it is shuffled.
        labels: one class per sample.
        score: in place of the one chosen; without labels it gets the model's own outputs.
        layout: see there.
        outputs: see there.
        n_samples: samples for Jacobians and edges, at most.
        n_scored: samples to score, at most a quarter of all.
        seed: of the order of samples.
        batch_size: samples scored together.
        words: from a sample of token ids to its tokens as text.
    """
    chain_of = chains_from(model, cuts, inputs, layout=layout, outputs=outputs)
    chain = chain_of({})
    for name, number in (("n_samples", n_samples), ("n_scored", n_scored)):
        require(number >= 1, name, "a whole number of at least 1", number)
    require(len(inputs) >= 4, "inputs", "at least 4 samples", len(inputs))
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    used, scored = order.split([
        n := len(inputs) - min(n_scored, len(inputs) // 4),
        len(inputs) - n,
    ])
    wanted = None if labels is None else labels[scored]
    if labels is None and score is None and type(model).__name__.endswith(CAUSAL):
        score = NEXT_TOKEN
    return Task(
        chain,
        inputs[used[:n_samples]],
        _scored(chain, inputs[scored], wanted, score, batch_size),
        gram_inputs=inputs[used],
        words=words,
        weights=Weights({name: p.detach() for name, p in model.named_parameters()}, chain_of),
    )


@torch.no_grad()
def _scored(
    chain: Chain, inputs: Tensor, labels: Tensor | None, score: Score | None, batch_size: int
) -> Scored:
    if labels is not None:
        return Scored(inputs, labels, score or ACCURACY, batch_size)
    if score is NEXT_TOKEN:
        return Scored(inputs, inputs, NEXT_TOKEN, batch_size)
    own = torch.cat([chain.outputs(some) for some in inputs.split(batch_size)])
    return Scored(inputs, own, score or DISTANCE, batch_size)
