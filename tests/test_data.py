import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from subscape import text_windows
from subscape.data import as_samples, n_samples, take

X = torch.arange(12.0).view(6, 2)


def test_tensors_and_mappings_are_taken_as_they_are():
    assert as_samples(X) is X
    assert as_samples((X, torch.zeros(6))) is X  # without labels
    found = as_samples({"input_ids": X, "text": ["a"] * 6, "attention_mask": X[:, 0]})
    assert isinstance(found, dict)
    assert list(found) == ["input_ids", "attention_mask"]
    assert found["input_ids"] is X


def test_a_batch_encoding_is_a_mapping():
    transformers = pytest.importorskip("transformers")
    found = as_samples(transformers.BatchEncoding({"input_ids": X}))
    assert isinstance(found, dict)
    assert found["input_ids"] is X


LABELLED = TensorDataset(X, torch.zeros(6))


@pytest.mark.parametrize(
    "given",
    [
        *(DataLoader(LABELLED, batch_size=n) for n in (2, 4, 6)),  # each batch [inputs, labels]
        [X[:2], X[2:]],
        [(X[i : i + 3], torch.zeros(3)) for i in (0, 3)],
        LABELLED,  # sample by sample
    ],
)
def test_batches_are_joined_in_order_without_labels(given):
    state = torch.get_rng_state()
    assert torch.equal(as_samples(iter(given) if isinstance(given, list) else given), X)
    assert isinstance(given, DataLoader) or torch.equal(torch.get_rng_state(), state)


def test_batches_of_mappings_are_joined_by_name():
    found = as_samples([{"a": X[:4], "b": X[:4, 0]}, {"b": X[4:, 0], "a": X[4:]}])
    assert isinstance(found, dict)
    torch.testing.assert_close(found, {"a": X, "b": X[:, 0]}, rtol=0, atol=0)


@pytest.mark.parametrize("samples", [X, {"a": X, "b": X[:, 0]}])
def test_take_and_count(samples):
    assert n_samples(samples) == 6
    taken = take(samples, torch.tensor([5, 0]))
    first = taken if isinstance(taken, Tensor) else taken["a"]
    assert first.tolist() == [[10.0, 11.0], [0.0, 1.0]]
    assert n_samples(take(samples, slice(1, 3))) == 2


def letters(text):
    """A tokenizer with a token for the start of a text and one for every letter."""
    return {"input_ids": [0] + [ord(c) - ord("a") + 1 for c in text]}


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        # Story 1: start a b c | d e f g. Story 2 has three tokens and is left out. Story 3: start a b c.
        (
            "abcdefg\n<|endoftext|>\nab\n<|endoftext|>\nabc\n",
            {"length": 4},
            [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3]],
        ),
        # Remainders are dropped.
        ("abcd---ab", {"length": 3, "separator": "---"}, [[0, 1, 2], [0, 1, 2]]),
    ],
)
def test_text_windows_cut_each_story_by_itself(tmp_path, text, options, expected):
    path = tmp_path / "stories.txt"
    path.write_text(text, encoding="utf-8")
    for given in (path, str(path)):
        found = text_windows(given, letters, **options)["input_ids"]
        assert found.tolist() == expected
        assert found.dtype == torch.long
