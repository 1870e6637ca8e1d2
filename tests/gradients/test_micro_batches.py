import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from subscape import GradientSource, Target
from subscape.gradients import DenseRowGradients, RowGradients
from subscape.gradients.micro_batches import MicroBatches
from subscape.lowrank import Stack, initial_stack, make_layout
from subscape.rows import generator_of

SHAPES = {"matrix": (3, 4), "kernel": (2, 3, 2), "vector": (3,), "scalar": ()}
N_PARAMETERS = 12 + 12 + 3 + 1
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def parts_of(sizes, seed=0):
    generator = generator_of(seed)
    return [
        DenseRowGradients(
            torch.randn(n, N_PARAMETERS, generator=generator, dtype=torch.float64), SHAPES
        )
        for n in sizes
    ]


def batches_of(parts):
    """The parts as micro-batches, and a list that grows by the number of every part that is made."""
    made: list[int] = []

    def maker(number):
        def make():
            made.append(number)
            return parts[number]

        return make

    makers = [maker(number) for number in range(len(parts))]
    return MicroBatches(makers, [part.n_rows for part in parts]), made


def together(parts):
    return DenseRowGradients(torch.cat([part.flat for part in parts]), SHAPES)


def directions(*lead):
    layout = make_layout(SHAPES, 2)
    return initial_stack(layout, lead, generator_of(1), torch.zeros((), dtype=torch.float64))


@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    lead=st.sampled_from([(3,), (2, 3), (1, 1)]),
)
def test_inner_products_and_their_slopes_are_those_of_the_batch(sizes, lead):
    parts, stack = parts_of(sizes), directions(*lead)

    def both(gradients):
        weights = stack.weights.clone().requires_grad_(True)
        products = gradients.inner(Stack(stack.layout, weights))
        # A loss that is no sum over rows, as the method's is not.
        loss = products.square().sum(-2).sin().sum() + products[..., 0].prod()
        return products.detach(), torch.autograd.grad(loss, weights)[0]

    found, expected = both(batches_of(parts)[0]), both(together(parts))
    assert found[0].shape == (*lead[:-1], sum(sizes), lead[-1])
    assert expected[1].abs().sum() > 0
    torch.testing.assert_close(found, expected, **CLOSE)


def test_all_else_is_that_of_the_batch():
    parts, others = parts_of([3, 1, 2]), parts_of([2, 5], seed=1)
    found, expected = batches_of(parts)[0], together(parts)
    assert isinstance(found, RowGradients)
    assert found.n_rows == 6
    weights = torch.randn(2, 6, dtype=torch.float64)
    for mine, theirs in (
        (found.squared_norm(), expected.squared_norm()),
        (found.gram(), expected.gram()),
        (found.gram(batches_of(others)[0]), expected.gram(together(others))),
        (found.combined(weights), expected.combined(weights)),
        (found.sum(), expected.sum()),
        (found.flat, expected.flat),
    ):
        torch.testing.assert_close(mine, theirs, **CLOSE)
    dense = found.dense()
    assert list(dense) == list(SHAPES)
    for name, values in expected.dense().items():
        assert torch.equal(dense[name], values)


def test_only_parts_with_weight_are_combined():
    batches, made = batches_of(parts_of([2, 2, 1]))
    batches.combined(torch.tensor([[0.0, 0.0, 1.0, 0.0, 0.0]], dtype=torch.float64))
    assert made == [1]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_the_sum_is_not_finite_if_a_number_is_not(bad):
    parts = parts_of([2, 2])
    parts[1].flat[1, 5] = bad
    assert not torch.isfinite(batches_of(parts)[0].sum())


def test_inner_products_by_hand():
    # Rows [1, 2] and [3, 4] in two parts, one direction [10, 1]; d(Σ_i i ⟨g_i, v⟩)/dv = [1, 2] + 2 [3, 4].
    parts = [
        DenseRowGradients(torch.tensor([row]), {"w": (2,)}) for row in ([1.0, 2.0], [3.0, 4.0])
    ]
    batches = MicroBatches([lambda: parts[0], lambda: parts[1]], [1, 1])
    weights = torch.tensor([[10.0, 1.0]], requires_grad=True)
    products = batches.inner(Stack(make_layout({"w": (2,)}, 1), weights))
    assert products.tolist() == [[12.0], [34.0]]
    (products[:, 0] @ torch.tensor([1.0, 2.0])).backward()
    assert weights.grad is not None
    assert weights.grad.tolist() == [[7.0, 10.0]]
    assert batches.squared_norm().tolist() == [5.0, 25.0]


def test_parts_are_made_once_forward_and_once_backward():
    batches, made = batches_of(parts_of([2, 2, 1]))
    stack = directions(3)
    weights = stack.weights.clone().requires_grad_(True)
    products = batches.inner(Stack(stack.layout, weights))
    assert made == [0, 1, 2]
    batches.squared_norm()  # known by now
    assert made == [0, 1, 2]
    products.sum().backward()
    assert made == [0, 1, 2, 0, 1, 2]
    first = batches.squared_norm()
    batches, made = batches_of(parts_of([2, 2, 1]))  # a pass of their own, asked for first
    assert torch.equal(batches.squared_norm(), first)
    assert torch.equal(batches.squared_norm(), first)
    assert made == [0, 1, 2]
    made.clear()
    batches.gram()
    assert made == [0, 1, 2, 1, 2, 2]


@pytest.mark.parametrize("engine", ["jacobian", "rule", "vmap"])
def test_parts_of_every_form_answer_as_the_whole(engine):
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    data = torch.randn(40, 4, dtype=torch.float64)
    source = GradientSource(Target(model), data, engine=engine)
    first, second = (source.rows(step, 18) for step in (0, 1))
    parts, others = (source.gradients(rows, micro_batch_size=9) for rows in (first, second))
    whole, rest = source.gradients(first).flat, source.gradients(second).flat
    assert isinstance(parts, MicroBatches)
    assert len(parts.makers) == 2
    layout = make_layout(source.shapes, 2)
    stack = initial_stack(layout, (3,), generator_of(4), whole[:0, 0])
    weights = torch.randn(2, 18, generator=generator_of(5), dtype=torch.float64)
    for found, expected in (
        (parts.inner(stack), whole @ stack.flat().mT),
        (parts.squared_norm(), whole.square().sum(1)),
        (parts.gram(), whole @ whole.mT),
        (parts.gram(others), whole @ rest.mT),
        (parts.combined(weights), weights @ whole),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert torch.isfinite(parts.sum())
