import torch
from torch import nn

from subscape import Target
from subscape.measures import RowSet, outputs_at


def token_rows(samples, position):
    return RowSet(torch.tensor(samples), torch.tensor(position))


def test_select_join_and_hold_keep_the_positions():
    rows = token_rows([4, 1, 4], [0, 2, 1])
    assert len(rows) == 3
    two = rows.select(slice(1, 3))
    assert two.samples.tolist() == [1, 4]
    assert two.position.tolist() == [2, 1]
    masked = rows.select(torch.tensor([True, False, True]))
    assert masked.position.tolist() == [0, 1]
    both = two.joined(token_rows([9], [5]))
    assert both.samples.tolist() == [1, 4, 9]
    assert both.position.tolist() == [2, 1, 5]
    plain = RowSet(torch.tensor([3])).joined(RowSet(torch.tensor([2])))
    assert plain.samples.tolist() == [3, 2]
    assert plain.position is None
    rows = token_rows([4, 1], [0, 2])
    assert rows.holds(token_rows([4, 4, 1, 7], [0, 1, 2, 0])).tolist() == [True, False, True, False]
    plain = RowSet(torch.tensor([4, 1]))
    assert plain.holds(RowSet(torch.tensor([1, 2]))).tolist() == [True, False]
    assert rows.holds(token_rows([4], [0]).select(slice(0, 0))).tolist() == []


def test_outputs_of_samples_are_the_models_own(small):
    made = small("mlp")
    rows = RowSet(torch.tensor([3, 0, 3]))
    found = outputs_at(made.target, made.data, rows)
    assert torch.equal(found, made.target.model(made.data[[3, 0, 3]]))
    assert not found.requires_grad


def test_outputs_of_tokens_are_those_at_their_positions(small):
    made = small("llama")
    rows = token_rows([3, 0, 3], [1, 4, 0])
    whole = made.target.model(**{k: v[[3, 0, 3]] for k, v in made.data.items()}).logits
    expected = torch.stack([whole[0, 1], whole[1, 4], whole[2, 0]])
    torch.testing.assert_close(outputs_at(made.target, made.data, rows), expected)


def test_passes_of_any_size_give_the_same(small):
    made = small("tokens")
    rows = token_rows([3, 0, 3, 5, 19], [1, 4, 0, 2, 3])
    change = {name: 0.3 * v for name, v in made.decomposition[0].dense().items()}
    whole = outputs_at(made.target, made.data, rows, change)
    for size in (1, 2, 7):
        parts = outputs_at(made.target, made.data, rows, change, micro_batch_size=size)
        torch.testing.assert_close(parts, whole, rtol=1e-13, atol=1e-15)


def test_a_change_is_added_and_the_model_stays(small):
    made = small("mlp")
    before = {name: p.detach().clone() for name, p in made.target.model.named_parameters()}
    change = {"2.bias": torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)}
    rows = RowSet(torch.arange(4))
    moved = outputs_at(made.target, made.data, rows, change)
    moved -= outputs_at(made.target, made.data, rows)
    torch.testing.assert_close(moved, change["2.bias"].expand(4, 3))
    for name, p in made.target.model.named_parameters():
        assert torch.equal(p, before[name])


def test_a_change_of_bfloat16_weights_is_added_in_float32():
    """1 + 2⁻⁷ is the number after 1 in bfloat16; 2⁻⁸ + 2⁻¹⁰ are rounded up to it, but not one by one."""
    model = nn.Linear(1, 1, bias=False).bfloat16()
    nn.init.ones_(model.weight)
    target, data = Target(model), torch.ones(2, 1, dtype=torch.bfloat16)
    change = {"weight": torch.full((1, 1), 2**-8 + 2**-10)}
    found = outputs_at(target, data, RowSet(torch.arange(2)), change)
    assert found.flatten().tolist() == [1 + 2**-7] * 2
