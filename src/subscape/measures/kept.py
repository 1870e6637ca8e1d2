"""What is kept beside the numbers: the samples that top rows point to, and names of what they speak of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor

from subscape._checks import require
from subscape.data import Samples, take
from subscape.measures.record import Names, SubnetworkMeasures
from subscape.measures.rows import RowSet
from subscape.targets import Target

Namer = Callable[[int], str]


def names_of(
    subnetworks: Iterable[SubnetworkMeasures],
    data: Samples,
    token_names: Namer | None,
    output_names: Namer | None,
) -> Names:
    """Names of the outputs and the tokens that the measures speak of."""
    outputs: set[int] = set()
    tokens: set[int] = set()
    ids = token_ids(data)
    for entry in subnetworks:
        for top in (entry.top_outputs, *(row.outputs for row in entry.top_samples)):
            outputs |= {pair.output for pair in chain(top.up, top.down)} if top else set()
        if ids is not None:
            tokens |= set(ids[[row.sample for row in entry.top_samples]].flatten().tolist())
    return Names(_named(outputs, output_names), _named(tokens, token_names))


def _named(numbers: set[int], namer: Namer | None) -> dict[int, str]:
    # A lone surrogate is no text that a file can hold.
    names = {i: namer(i) for i in sorted(numbers)} if namer else {}
    return {i: name.encode("utf-8", "replace").decode() for i, name in names.items()}


def token_ids(data: Samples) -> Tensor | None:
    """The token ids of samples that are sequences of them, [sample, position]; None of others."""
    ids = data if isinstance(data, Tensor) else data.get("input_ids")
    return ids if ids is not None and not ids.is_floating_point() and ids.dim() == 2 else None


def tokens_at(samples: Mapping[str, Tensor], place: int) -> list[int]:
    """The token ids of a kept sample, without padding at its end; at the beginning positions count it."""
    ids, mask = samples["input_ids"][place], samples.get("attention_mask")
    n = len(ids) if mask is None else int(mask[place].nonzero().max()) + 1
    return ids[:n].tolist()


def samples_of(rows: Sequence[RowSet], data: Samples, labels: Tensor | None) -> dict[str, Tensor]:
    """The samples that rows point to: `index` in the data, inputs by name, and `labels` if given."""
    index = torch.cat([part.samples for part in rows]).unique()
    inputs = take(data, index)
    by_name = {"inputs": inputs} if isinstance(inputs, Tensor) else inputs
    # Labels of the data may be something else, such as the next token of every token.
    kept = {name: values for name, values in by_name.items() if name != "labels"}
    if labels is not None:
        kept["labels"] = torch.as_tensor(labels)[index]
    return {**kept, "index": index}


def check_vocabulary(target: Target, data: Samples) -> None:
    """Refuse token ids that the model has no embedding for."""
    ids = token_ids(data)
    embedding = getattr(target.model, "get_input_embeddings", lambda: None)()
    size = getattr(embedding, "num_embeddings", None)
    if ids is None or size is None:
        return
    low, high = (int(v) for v in ids.aminmax())
    require(
        low >= 0 and high < size,
        "data",
        f"token ids of the model's vocabulary, 0 to {size - 1}",
        f"{low if low < 0 else high}",
        "Tokenize the text with this model's own tokenizer.",
    )
