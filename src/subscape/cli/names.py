"""Names of tokens and outputs, as people read them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from subscape._checks import require
from subscape._io import read_text

Namer = Callable[[int], str]


def token_namer(tokenizer: Any) -> Namer | None:
    """From id to the text of a token with its leading space; None without a Hugging Face tokenizer."""
    if tokenizer is None:
        return None

    # WordPieces: what does not go on a word with ## begins one.
    wordpiece = getattr(tokenizer, "convert_tokens_to_string", "".join)(["a", "##b"]) == "ab"
    special = set(getattr(tokenizer, "all_special_tokens", ()))

    def name(index: int) -> str:
        token = tokenizer.convert_ids_to_tokens(index)
        if token is None:
            return f"<{index}>"
        if wordpiece:
            goes_on = token.startswith("##") or token in special
            return token.removeprefix("##") if goes_on else f" {token}"
        text = tokenizer.convert_tokens_to_string([token])
        if "\ufffd" in text:  # a byte of a longer character: its name tells it from other bytes
            return token
        # Sentencepiece tokenizers drop the space that begins a text.
        return f" {text}" if token.startswith("▁") and not text.startswith(" ") else text

    return name


def output_namer(file: Path | None, model: nn.Module, tokens: Namer | None) -> Namer | None:
    """Names of outputs: of a file, one per line, the model's own class names, or its tokens."""
    if file is not None:
        require(file.is_file(), "names", "a text file that exists", str(file))
        lines = read_text(file).splitlines()
        return lambda i: lines[i] if i < len(lines) else f"output {i}"
    if tokens is not None and getattr(model, "get_output_embeddings", lambda: None)() is not None:
        return tokens
    classes = getattr(getattr(model, "config", None), "id2label", None)
    # Hugging Face gives every model two classes with names that say nothing.
    if not classes or all(name == f"LABEL_{i}" for i, name in classes.items()):
        return None
    return lambda i: str(classes.get(i, f"output {i}"))
