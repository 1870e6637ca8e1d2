import pytest
import torch
from torch import Tensor

from subscape import FixedOutput, Pairs
from subscape.references import NAMED, another_row, batch_mean, resolve, uniform


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labelled(n: int) -> tuple[Tensor, Tensor]:
    """Outputs that tell which row they are of, and the rows' samples."""
    return torch.arange(float(n))[:, None], torch.arange(n)


def test_another_row_is_uniform_over_all_others_and_never_the_row_itself():
    outputs, rows = labelled(5)
    counts = torch.zeros(5, 5)
    random = generator()
    for _ in range(4000):
        reference = another_row(outputs, rows, random)[:, 0].long()
        counts[rows, reference] += 1
    assert counts.diag().tolist() == [0.0] * 5
    off = counts[~torch.eye(5, dtype=torch.bool)]
    # 4,000 draws over 4 others: 1,000 each, standard deviation 27; five of them are 137.
    assert ((off - 1000).abs() < 137).all()


def test_another_row_passes_over_rows_of_the_same_sample():
    outputs = torch.arange(6.0)[:, None]
    rows = torch.tensor([7, 7, 7, 2, 7, 2])
    random = generator()
    seen = [set() for _ in range(6)]
    for _ in range(300):
        for i, reference in enumerate(another_row(outputs, rows, random)[:, 0].long().tolist()):
            seen[i].add(reference)
    for i, references in enumerate(seen):
        assert references == {j for j in range(6) if rows[j] != rows[i]}


def test_another_row_of_one_sample_only_still_is_another_row():
    outputs, rows = torch.arange(4.0)[:, None], torch.zeros(4, dtype=torch.long)
    for seed in range(20):
        found = another_row(outputs, rows, generator(seed))
        assert (found != outputs).all()


def test_batch_mean_by_hand():
    outputs = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    found = batch_mean(outputs, torch.arange(2), generator())
    assert found.tolist() == [[2.0, 4.0], [2.0, 4.0]]


def test_uniform_logits_are_zeros():
    found = uniform(torch.randn(3, 4), torch.arange(3), generator())
    assert found.tolist() == [[0.0] * 4] * 3
    assert found.softmax(-1).eq(0.25).all()


def test_fixed_output_is_the_same_for_all_rows_in_the_outputs_dtype():
    outputs = torch.zeros(3, 2, dtype=torch.float64)
    found = FixedOutput(torch.tensor([1.0, -1.0]))(outputs, torch.arange(3), generator())
    assert found.dtype == torch.float64
    assert found.tolist() == [[1.0, -1.0]] * 3


def test_pairs_go_by_sample():
    pairs = Pairs(torch.arange(10.0).view(5, 2))
    found = pairs(torch.zeros(3, 2), torch.tensor([4, 0, 4]), generator())
    assert found.tolist() == [[8.0, 9.0], [0.0, 1.0], [8.0, 9.0]]


@pytest.mark.parametrize("name", list(NAMED))
def test_rules_keep_shape_and_depend_on_the_generator_only(name: str):
    outputs, rows = torch.randn(6, 3, 2), torch.arange(6)
    state = torch.get_rng_state()
    first = NAMED[name](outputs, rows, generator(1))
    assert first.shape == outputs.shape
    assert torch.equal(first, NAMED[name](outputs, rows, generator(1)))
    assert torch.equal(torch.get_rng_state(), state)


def test_other_generators_draw_other_rows():
    outputs, rows = labelled(20)
    draws = [another_row(outputs, rows, generator(seed)) for seed in range(2)]
    assert not torch.equal(*draws)


def test_names_and_callables_resolve():
    fixed = FixedOutput(torch.zeros(2))
    assert resolve("another-row") is another_row
    assert resolve("batch-mean") is batch_mean
    assert resolve("uniform") is uniform
    assert resolve(fixed) is fixed
