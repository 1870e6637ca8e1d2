import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from subscape import text_windows
from subscape.data import as_samples, n_samples, take

X = torch.arange(12.0).view(6, 2)


def test_a_tensor_is_taken_as_it_is():
    assert as_samples(X) is X


def test_labels_are_dropped():
    assert as_samples((X, torch.zeros(6))) is X


def test_mappings_keep_their_tensors_only():
    found = as_samples({"input_ids": X, "text": ["a"] * 6, "attention_mask": X[:, 0]})
    assert isinstance(found, dict)
    assert list(found) == ["input_ids", "attention_mask"]
    assert found["input_ids"] is X


def test_a_batch_encoding_is_a_mapping():
    transformers = pytest.importorskip("transformers")
    found = as_samples(transformers.BatchEncoding({"input_ids": X}))
    assert isinstance(found, dict)
    assert found["input_ids"] is X


@pytest.mark.parametrize("batch_size", [2, 4, 6])
def test_a_loader_is_read_to_its_end_in_order_without_labels(batch_size):
    loader = DataLoader(TensorDataset(X, torch.zeros(6)), batch_size=batch_size)
    assert isinstance(next(iter(loader)), list)  # [inputs, labels]
    assert torch.equal(as_samples(loader), X)


def test_batches_may_be_tensors_or_tuples():
    assert torch.equal(as_samples(iter([X[:2], X[2:]])), X)
    assert torch.equal(as_samples((X[i : i + 3], torch.zeros(3)) for i in (0, 3)), X)


def test_a_data_set_is_read_sample_by_sample():
    state = torch.get_rng_state()
    assert torch.equal(as_samples(TensorDataset(X, torch.zeros(6))), X)
    assert torch.equal(torch.get_rng_state(), state)


def test_batches_of_mappings_are_joined_by_name():
    found = as_samples([{"a": X[:4], "b": X[:4, 0]}, {"b": X[4:, 0], "a": X[4:]}])
    assert isinstance(found, dict)
    assert torch.equal(found["a"], X)
    assert torch.equal(found["b"], X[:, 0])


@pytest.mark.parametrize("samples", [X, {"a": X, "b": X[:, 0]}])
def test_take_and_count(samples):
    assert n_samples(samples) == 6
    taken = take(samples, torch.tensor([5, 0]))
    first = taken if isinstance(taken, Tensor) else taken["a"]
    assert first.tolist() == [[10.0, 11.0], [0.0, 1.0]]
    assert n_samples(take(samples, slice(1, 3))) == 2


# Text


class Letters:
    """A tokenizer with a token for the start of a text and one for every letter."""

    def __call__(self, text):
        return {"input_ids": [0] + [ord(c) - ord("a") + 1 for c in text]}


def test_text_windows_cut_each_story_by_itself(tmp_path):
    path = tmp_path / "stories.txt"
    path.write_text("abcdefg\n<|endoftext|>\nab\n<|endoftext|>\nabc\n", encoding="utf-8")
    found = text_windows(path, Letters(), length=4)["input_ids"]
    # Story 1: start a b c | d e f g. Story 2 has three tokens and is left out. Story 3: start a b c.
    assert found.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3]]
    assert found.dtype == torch.long


def test_text_windows_take_another_separator_and_drop_remainders(tmp_path):
    path = tmp_path / "stories.txt"
    path.write_text("abcd---ab", encoding="utf-8")
    found = text_windows(str(path), Letters(), length=3, separator="---")["input_ids"]
    assert found.tolist() == [[0, 1, 2], [0, 1, 2]]
