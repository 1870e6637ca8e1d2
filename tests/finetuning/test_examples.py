import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from subscape.finetuning.examples import Examples, as_examples, set_aside

X, Y = torch.arange(12.0).view(6, 2), torch.tensor([0, 1, 2, 0, 1, 2])


def same(examples, inputs, labels):
    assert torch.equal(examples.inputs, inputs)
    assert torch.equal(examples.labels, labels)


def test_forms_with_labels():
    loader = DataLoader(TensorDataset(X, Y), batch_size=4)
    for data in ((X, Y), [X, Y], TensorDataset(X, Y), loader, (X, Y.tolist())):
        if isinstance(data, list):
            data = [(X[:4], Y[:4]), (X[4:], Y[4:])]
        same(as_examples(data), X, Y)
    mapping = as_examples({"x": X, "labels": Y})
    assert list(mapping.inputs) == ["x"]
    assert torch.equal(mapping.labels, Y)
    assert mapping.given == (mapping.inputs, mapping.labels)


def test_forms_without_labels():
    for data in (X, DataLoader(X, batch_size=4), [X[:4], X[4:]]):
        examples = as_examples(data)
        assert torch.equal(examples.inputs, X)
        assert examples.labels is None
        assert examples.given is examples.inputs


def test_labels_of_another_length_are_refused():
    with pytest.raises(ValueError, match="a label for each of the 6 samples; got 5 labels"):
        as_examples((X, Y[:5]))


def test_every_epoch_has_every_sample_once():
    examples = Examples(X, Y)
    seen = torch.cat([examples.batch(step, 4, 0).inputs for step in range(3)])
    for epoch in (seen[:6], seen[6:]):
        assert sorted(map(tuple, epoch.tolist())) == sorted(map(tuple, X.tolist()))
    first, again = (examples.batch(1, 4, 0) for _ in range(2))
    assert torch.equal(first.inputs, again.inputs)
    assert (first.labels == first.inputs[:, 0] // 2 % 3).all()
    assert len(examples.batch(5, 100, 0)) == 6


def test_copies_are_held_out_together():
    data = Examples(X[:2].repeat(20, 1))
    learned, held = set_aside(data, seed=0)
    assert len(learned) + len(held) == 40
    assert len(held.inputs.unique(dim=0)) == len(learned.inputs.unique(dim=0)) == 1
    with pytest.raises(ValueError, match="at least 2 different samples"):
        set_aside(Examples(X[:1].repeat(5, 1)), seed=0)
