"""A network with what its interaction graph is computed on and judged by; a language model as one.

Any other is a function of one's own that returns a `Task`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from subscape._checks import optional, require
from subscape.data import text_windows
from subscape.interaction_basis.chain import Chain
from subscape.interaction_basis.graph import InteractionGraph
from subscape.interaction_basis.huggingface import decoder_chain
from subscape.interaction_basis.score import NEXT_TOKEN, Scored
from subscape.interaction_basis.weights import Weights, of_model

Labels = Mapping[tuple[int, int], str]


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
    words: Callable[[Tensor], list[str]] | None = None
    """From a sample of token ids to its tokens as text, to show what directions respond to."""
    weights: Weights | None = None
    """The network as a function of its weights, to shuffle them or to push them."""

    @property
    def scoring(self) -> Chain:
        """The network to score."""
        return self.scored_chain or self.chain


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
    """A language model and a text file of stories separated by <|endoftext|>, scored by the next token.

    Args:
        folder: a Hugging Face folder with its tokenizer, of the Llama or GPT-2 style.
        text: the file.
        scored_text: another one to score on; by default the last windows of `text`, left out above.
        length: tokens in a window.
        n_sequences: windows for Jacobians and edges, at most; means and covariances take all.
        n_scored: windows to score.
        seed: of the choice of windows.
    """
    transformers = optional("transformers", "for a language model", "'subscape[lm]'")
    sizes = {"length": (length, 2), "n_sequences": (n_sequences, 1), "n_scored": (n_scored, 1)}
    for name, (number, least) in sizes.items():
        require(number >= least, name, f"a whole number of at least {least}", number)
    tokenizer = _tokenizer(transformers, folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", trust_remote_code=False
    )
    positions = getattr(model.config, "max_position_embeddings", length)
    fits = f"at most the {positions} positions of the model"
    require(length <= positions, "length", fits, length)
    windows = text_windows(text, tokenizer, length=length)["input_ids"]
    if scored_text is None:
        require(len(windows) > n_scored, "text", f"over {n_scored} windows", len(windows))
        windows, scored = windows[:-n_scored], windows[-n_scored:]
    else:
        scored = text_windows(scored_text, tokenizer, length=length)["input_ids"]
        require(len(scored) >= n_scored, "scored_text", f"{n_scored} windows", len(scored))
        scored = scored[-n_scored:]
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(seed))
    model = model.eval()
    return Task(
        decoder_chain(model),
        windows[order[:n_sequences]],
        Scored(scored, scored, NEXT_TOKEN, batch_size=32),
        gram_inputs=windows,
        words=lambda ids: tokenizer.convert_ids_to_tokens(ids.tolist()),
        weights=of_model(model, decoder_chain),
    )


def _tokenizer(transformers: Any, folder: str | Path) -> Any:
    """The tokenizer of a model's folder; transformers makes an empty one where there is none, or raises."""
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        tokenizer = None
    known = tokenizer is not None and any(i is not None for i in _ids(tokenizer))
    require(
        known,
        "weights",
        f"a tokenizer with the model in {folder}, for its text",
        "none",
        "Save it there: tokenizer.save_pretrained(folder).",
    )
    return tokenizer


def _ids(tokenizer: Any) -> list[int]:
    """Of some letters; an empty tokenizer makes nothing of them, or the unknown token."""
    return [
        i
        for i in tokenizer("a story of its own")["input_ids"]
        if i not in tokenizer.all_special_ids
    ]
