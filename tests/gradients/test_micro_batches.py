import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from subscape import GradientSource, Target
from subscape.gradients import DenseRowGradients, RowGradients, generator_of
from subscape.gradients.micro_batches import MicroBatches
from subscape.lowrank import Stack, initial_stack, make_layout

SHAPES = {"matrix": (3, 4), "kernel": (2, 3, 2), "vector": (3,), "scalar": ()}
N_PARAMETERS = 12 + 12 + 3 + 1
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def parts_of(sizes: list[int]) -> list[DenseRowGradients]:
    generator = generator_of(0)
    return [
        DenseRowGradients(
            torch.randn(n, N_PARAMETERS, generator=generator, dtype=torch.float64), SHAPES
        )
        for n in sizes
    ]


def batches_of(parts: list[DenseRowGradients]) -> tuple[MicroBatches, list[int]]:
    """The parts as micro-batches, and a list that grows by the number of every part that is made."""
    made: list[int] = []

    def maker(number: int):
        def make() -> DenseRowGradients:
            made.append(number)
            return parts[number]

        return make

    makers = [maker(number) for number in range(len(parts))]
    return MicroBatches(makers, [part.n_rows for part in parts]), made


def together(parts: list[DenseRowGradients]) -> DenseRowGradients:
    return DenseRowGradients(torch.cat([part.flat for part in parts]), SHAPES)


def directions(*lead: int) -> Stack:
    layout = make_layout(SHAPES, 2)
    return initial_stack(layout, lead, generator_of(1), torch.zeros((), dtype=torch.float64))


# Parts of a batch against the batch


@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    lead=st.sampled_from([(3,), (2, 3), (1, 1)]),
)
def test_inner_products_are_those_of_the_batch(sizes: list[int], lead: tuple[int, ...]):
    parts = parts_of(sizes)
    found, expected = batches_of(parts)[0].inner(directions(*lead)), together(parts)
    assert found.shape == (*lead[:-1], sum(sizes), lead[-1])
    torch.testing.assert_close(found, expected.inner(directions(*lead)), **CLOSE)


@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    lead=st.sampled_from([(3,), (2, 3)]),
)
def test_slopes_in_the_directions_are_those_of_the_batch(sizes: list[int], lead: tuple[int, ...]):
    parts, stack = parts_of(sizes), directions(*lead)

    def slope(gradients: RowGradients) -> Tensor:
        weights = stack.weights.clone().requires_grad_(True)
        products = gradients.inner(Stack(stack.layout, weights))
        # A loss that is no sum over rows, as the method's is not.
        loss = products.square().sum(-2).sin().sum() + products[..., 0].prod()
        return torch.autograd.grad(loss, weights)[0]

    expected = slope(together(parts))
    assert expected.abs().sum() > 0
    torch.testing.assert_close(slope(batches_of(parts)[0]), expected, **CLOSE)


def test_all_else_is_that_of_the_batch():
    parts = parts_of([3, 1, 2])
    found, expected = batches_of(parts)[0], together(parts)
    assert isinstance(found, RowGradients)
    assert found.n_rows == 6
    torch.testing.assert_close(found.squared_norm(), expected.squared_norm(), **CLOSE)
    assert torch.equal(found.flat, expected.flat)
    dense = found.dense()
    assert list(dense) == list(SHAPES)
    for name, values in expected.dense().items():
        assert torch.equal(dense[name], values)


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


def test_norms_that_are_asked_for_first_take_a_pass_of_their_own():
    batches, made = batches_of(parts_of([2, 1]))
    first = batches.squared_norm()
    assert made == [0, 1]
    assert torch.equal(batches.squared_norm(), first)
    assert made == [0, 1]


# Parts that a source makes


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(7, 4), nn.Linear(4, 7)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.table(ids).cumsum(1)))


def source_of(rows: str, **options) -> GradientSource:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, ids = Words().double(), torch.randint(0, 7, (12, 3))
    return GradientSource(Target(model), ids, rows=rows, divergence="kl", seed=3, **options)


every_kind = pytest.mark.parametrize("rows", ["sample", "token", "every-token"])
engines = pytest.mark.parametrize("engine", ["rule", "replay", "vmap", "loop"])


@every_kind
@engines
def test_a_batch_in_parts_holds_the_rows_of_its_parts(rows: str, engine: str):
    source = source_of(rows, engine={"*": engine})
    per_sample = 3 if rows == "every-token" else 1
    size = 8 * per_sample
    samples = source.batch(2, size).samples[::per_sample]
    batches = source.batch_gradients(2, size, at_once=3 * per_sample)
    assert isinstance(batches, MicroBatches)
    assert batches.n_rows == size
    # 8 samples in 3 parts are 3, 3 and 2; each part draws positions and references of its own.
    drawn = [
        source.rows_at(part, draw=2, part=place)
        for place, part in enumerate(samples.split([3, 3, 2]))
    ]
    expected = torch.cat([source.gradients(batch).flat for batch in drawn])
    assert list(batches.sizes) == [len(batch.samples) for batch in drawn]
    assert torch.isfinite(expected).all()
    torch.testing.assert_close(batches.flat, expected, rtol=1e-12, atol=1e-14)
    stack = initial_stack(
        make_layout(source.shapes, 2), (3,), generator_of(4), torch.zeros(()).double()
    )
    inner = batches.inner(stack)
    torch.testing.assert_close(inner, expected @ stack.flat().mT, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        batches.squared_norm(), expected.square().sum(1), rtol=1e-10, atol=1e-14
    )


@every_kind
def test_parts_are_the_same_whenever_they_are_made(rows: str):
    size = 24 if rows == "every-token" else 8
    batches = source_of(rows, engine="rule").batch_gradients(1, size, at_once=size // 4)
    again = source_of(rows, engine="rule").batch_gradients(1, size, at_once=size // 4)
    assert isinstance(batches, MicroBatches)
    assert len(batches.makers) == 4
    first = batches.flat
    assert (first.norm(dim=1) > 0).any()
    assert torch.equal(batches.flat, first)
    assert torch.equal(again.flat, first)
    other = source_of(rows, engine="rule").batch_gradients(2, size, at_once=size // 4)
    assert not torch.equal(other.flat, first)


@every_kind
def test_parts_draw_for_themselves(rows: str):
    # The same samples in another part of the same draw meet other references.
    source = source_of(rows, engine="rule")
    first, second = (source.rows_at(torch.arange(6), draw=0, part=part) for part in (0, 1))
    assert torch.equal(first.samples, second.samples)
    assert not torch.equal(first.reference, second.reference)


@pytest.mark.parametrize("at_once", [None, 8, 100])
def test_a_batch_that_fits_is_made_in_one_piece(at_once: int | None):
    source = source_of("token", engine="rule")
    found = source.batch_gradients(1, 8, at_once=at_once)
    assert not isinstance(found, MicroBatches)
    assert torch.equal(found.flat, source.gradients(source.batch(1, 8)).flat)


@pytest.mark.parametrize(
    ("rows", "size", "at_once", "expected"),
    [
        ("sample", 12, 6, [6, 6]),
        ("sample", 12, 5, [4, 4, 4]),
        ("token", 11, 4, [4, 4, 3]),
        # A reference is another row's output, so no part has a single sample.
        ("token", 9, 1, [3, 2, 2, 2]),
        ("token", 3, 1, [3]),
        # 12 sequences of 3 positions; parts are whole sequences.
        ("every-token", 36, 18, [18, 18]),
        ("every-token", 36, 10, [9, 9, 9, 9]),
    ],
)
def test_sizes_of_parts(rows: str, size: int, at_once: int, expected: list[int]):
    found = source_of(rows, engine="rule").batch_gradients(0, size, at_once=at_once)
    assert found.n_rows == size == len(found.squared_norm())
    if len(expected) == 1:
        assert not isinstance(found, MicroBatches)
        return
    assert isinstance(found, MicroBatches)
    assert list(found.sizes) == expected
    assert [make().n_rows for make in found.makers] == expected


@pytest.mark.parametrize("at_once", [6, 8, 10, 11, 17, 29])
def test_no_part_has_more_rows_than_may_be_made_at_once(at_once: int):
    # Sequences of 3 positions: 30 rows in 3 parts of 10 would be parts of 4 sequences, 12 rows.
    found = source_of("every-token", engine="rule").batch_gradients(0, 30, at_once=at_once)
    assert isinstance(found, MicroBatches)
    assert max(found.sizes) <= at_once
    assert sum(found.sizes) == 30


def test_parts_of_every_token_rows_are_whole_sequences():
    with pytest.raises(ValueError, match="a multiple of the 3 positions"):
        source_of("every-token", engine="rule").batch_gradients(0, 8, at_once=4)


def test_parts_from_a_cached_jacobian():
    source = source_of("sample", engine="jacobian")
    batches = source.batch_gradients(1, 8, at_once=4)
    assert isinstance(batches, MicroBatches)
    ruled = source_of("sample", engine="rule").batch_gradients(1, 8, at_once=4)
    torch.testing.assert_close(batches.flat, ruled.flat, rtol=1e-10, atol=1e-12)
