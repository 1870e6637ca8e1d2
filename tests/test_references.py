import pytest
import torch

from subscape import FixedOutput, Pairs
from subscape.references import REFERENCES, another_row, as_reference, group_mean, name_of, uniform
from subscape.rows import RowDraws, Rows

ROWS = Rows(torch.tensor([4, 0, 2, 1]), None, torch.tensor([1, 0, 3, 2]), (2, 2))
"""Four samples in two groups."""
OUTPUTS = torch.tensor([[1.0, 2.0], [3.0, 6.0], [5.0, 0.0], [7.0, 8.0]])


def test_another_row_is_the_rows_partner():
    assert torch.equal(another_row(OUTPUTS, ROWS), OUTPUTS[[1, 0, 3, 2]])


def test_a_row_alone_has_no_other_row():
    alone = Rows(torch.tensor([3]), None, torch.tensor([0]), (1,))
    with pytest.raises(ValueError, match="^reference: expected at least 2 rows .* Use larger"):
        another_row(OUTPUTS[:1], alone)


def test_the_mean_of_a_group_by_hand():
    means = [[2.0, 4.0], [6.0, 4.0]]
    assert group_mean(OUTPUTS, ROWS).tolist() == [means[0], means[0], means[1], means[1]]


def test_uniform_logits_are_zeros():
    reference = uniform(torch.randn(4, 3), ROWS)
    assert reference.tolist() == [[0.0] * 3] * 4
    assert reference.softmax(-1).eq(1 / 3).all()


def test_a_fixed_output_is_the_same_for_all_rows_in_the_outputs_dtype():
    fixed = FixedOutput(torch.tensor([1.0, -1.0]))
    reference = fixed(OUTPUTS.double(), ROWS)
    assert reference.dtype == torch.float64
    assert reference.tolist() == [[1.0, -1.0]] * 4


def test_pairs_go_by_sample():
    pairs = Pairs(torch.arange(10.0).view(5, 2))
    expected = [[8.0, 9.0], [0.0, 1.0], [4.0, 5.0], [2.0, 3.0]]
    assert pairs(OUTPUTS, ROWS).tolist() == expected
    some = pairs.of_samples(torch.tensor([1, 4]))
    assert some.outputs.tolist() == [[2.0, 3.0], [8.0, 9.0]]


def test_pairs_go_by_position_where_every_position_is_a_row():
    rows = RowDraws(3, "token", 2, 0).of_samples(torch.tensor([2, 0]), draw=0)
    pairs = Pairs(torch.arange(6.0).view(3, 2, 1))
    assert pairs(torch.zeros(4, 1), rows).flatten().tolist() == [4.0, 5.0, 0.0, 1.0]
    some = pairs.of_samples(torch.tensor([1]))
    assert some.outputs.tolist() == [[[2.0], [3.0]]]
    # One for all positions of a sample.
    whole = Pairs(torch.arange(3.0)[:, None])
    assert whole(torch.zeros(4, 1), rows).flatten().tolist() == [2.0, 2.0, 0.0, 0.0]
    with pytest.raises(ValueError, match=r"^reference: .*got shape \[3, 1, 1\]"):
        Pairs(torch.zeros(3, 1, 1))(torch.zeros(4, 1), rows)


@pytest.mark.parametrize("rule", [*REFERENCES.values(), FixedOutput(torch.ones(3, 2))], ids=name_of)
@pytest.mark.parametrize("kind", ["sample", "sampled-token", "token"])
def test_a_row_sees_its_group_only(rule, kind):
    rows = RowDraws(20, kind, 3, 0).of_samples(torch.arange(20), draw=0)
    outputs = torch.randn(len(rows), 3, 2)
    whole = rule(outputs, rows)
    assert whole.shape == outputs.shape
    parts = rows.micro_batches(1)
    assert len(parts) == 2
    own = outputs.split([len(part) for part in parts])
    assert torch.equal(torch.cat([rule(*given) for given in zip(own, parts, strict=True)]), whole)


def mine(outputs, rows):
    return outputs


def test_names_and_callables():
    fixed = FixedOutput(torch.zeros(2))
    rules = {"another-row": another_row, "batch-mean": group_mean, "uniform": uniform}
    assert rules == REFERENCES
    for name, rule in rules.items():
        assert as_reference(name) is rule
        assert name_of(rule) == name
    assert as_reference(fixed) is fixed
    assert as_reference(mine) is mine
    assert name_of(mine) == "mine"
    with pytest.raises(ValueError, match=r"one of \[.*'mean'\].*; got 'Mean'. Did you mean 'mean'"):
        as_reference("Mean")


def test_names_tell_large_values_apart():
    one = torch.zeros(2000, 2)
    other = one.clone()
    other[1000, 1] = 1.0  # where a printed tensor shows only dots
    assert name_of(Pairs(one)) == name_of(Pairs(one.clone())) != name_of(Pairs(other))
    assert name_of(Pairs(one)).startswith("Pairs(outputs=SHA-256 ")
