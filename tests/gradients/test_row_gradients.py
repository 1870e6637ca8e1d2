import torch
from hypothesis import given
from hypothesis import strategies as st

from subscape.gradients import DenseGradient, DenseRowGradients, FactoredRowGradients, RowGradients
from subscape.gradients.row_gradients import times_directions
from subscape.lowrank import initial_stack, make_layout

SHAPES = {"matrix": (3, 2), "vector": (4,), "scalar": (), "kernel": (2, 3, 2)}
N_PARAMETERS = 6 + 4 + 1 + 12


def rows(*lead):
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(*lead, N_PARAMETERS, generator=generator, dtype=torch.float64)
    return DenseRowGradients(flat, SHAPES)


def directions(*lead):
    layout = make_layout(SHAPES, 2)
    return initial_stack(layout, lead, torch.Generator().manual_seed(1), torch.zeros(()).double())


def test_dense_cuts_the_flat_vector_in_model_order():
    flat = torch.arange(2.0 * N_PARAMETERS).view(2, N_PARAMETERS)
    dense = DenseRowGradients(flat, SHAPES).dense()
    assert {name: tuple(d.shape) for name, d in dense.items()} == {
        name: (2, *shape) for name, shape in SHAPES.items()
    }
    # Row 0 counts on through the tensors: 6 entries, 4, 1, 12.
    assert dense["matrix"][0].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert dense["vector"][0].tolist() == [6, 7, 8, 9]
    assert dense["scalar"].tolist() == [10, 10 + N_PARAMETERS]
    assert dense["kernel"][0, 0].tolist() == [[11, 12], [13, 14], [15, 16]]


def test_products_of_rows_and_combinations_by_hand():
    # [1, 2 | 3] and [0, 1 | 1] with [2, 0 | 1]: 5 and 1; with themselves 14, 5, 2.
    tensors = {"w": (2,), "b": ()}
    mine = DenseRowGradients(torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 1.0]]), tensors)
    other = DenseRowGradients(torch.tensor([[2.0, 0.0, 1.0]]), tensors)
    both = [
        FactoredRowGradients({n: DenseGradient(g) for n, g in x.dense().items()})
        for x in (mine, other)
    ]
    for one, two in ((mine, other), both):
        assert isinstance(one, RowGradients)
        assert one.gram(two).tolist() == [[5.0], [1.0]]
        assert two.gram(one).tolist() == [[5.0, 1.0]]
        assert one.gram().tolist() == [[14.0, 5.0], [5.0, 2.0]]
        assert one.squared_norm().tolist() == [14.0, 2.0]
        assert one.combined(torch.tensor([[1.0, -2.0]])).tolist() == [[1.0, 0.0, 1.0]]
        assert float(one.sum()) == 8.0


def test_inner_by_tensor_contractions():
    gradients, stack = rows(5), directions(3)
    by_tensor = [
        gradients.dense()[name].reshape(5, -1) @ direction.reshape(3, -1).mT
        for name, direction in stack.dense().items()
    ]
    torch.testing.assert_close(gradients.inner(stack), sum(by_tensor), rtol=1e-12, atol=1e-12)


def test_inner_of_rows_of_their_own_is_the_inner_of_every_replica():
    gradients, stack = rows(4, 5), directions(4, 3)
    found = gradients.inner(stack)
    for replica in range(4):
        own = DenseRowGradients(gradients.flat[replica], SHAPES)
        torch.testing.assert_close(
            found[replica], own.inner(stack.select(replica)), rtol=1e-12, atol=1e-12
        )


def test_rows_are_taken_after_the_replica_axis():
    gradients = rows(2, 5)
    assert gradients.n_rows == 5
    taken = gradients.rows(torch.tensor([3, 0]))
    assert torch.equal(taken.flat, gradients.flat[:, [3, 0]])
    assert gradients.rows(slice(1, 3)).n_rows == 2


@given(
    n=st.integers(1, 4),
    replicas=st.integers(1, 3),
    subnetworks=st.integers(1, 4),
    p=st.integers(1, 5),
)
def test_times_directions_is_one_product_per_replica(n, replicas, subnetworks, p):
    generator = torch.Generator().manual_seed(n + 7 * p)
    flat = torch.randn(n, p, generator=generator, dtype=torch.float64)
    v = torch.randn(replicas, subnetworks, p, generator=generator, dtype=torch.float64)
    expected = torch.einsum("np,rsp->rns", flat, v)
    torch.testing.assert_close(times_directions(flat, v), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(times_directions(flat, v[0]), expected[0], rtol=1e-12, atol=1e-12)
