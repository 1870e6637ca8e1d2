import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from subscape.lowrank import Stack, initial_stack, make_layout
from subscape.lowrank.stack import unit
from tests.conftest import normal


def random_stack(layout, *lead):
    return Stack(layout, normal(*lead, layout.size))


def oracle(tensor, pieces):
    """Tucker and CP written out as one einsum over named axes; leading axes in front."""
    modes, ranks = "abcd"[: len(tensor.shape)], "wxyz"[: len(tensor.shape)]
    if tensor.form == "cp":
        terms = ",".join(f"...{mode}r" for mode in modes)
        return torch.einsum(f"{terms}->...{modes}", *pieces)
    core, *factors = pieces
    given = dict(zip(tensor.factored_modes, factors, strict=True))
    eyes = [given.get(mode, torch.eye(d, dtype=core.dtype)) for mode, d in enumerate(tensor.shape)]
    terms = "".join(f",...{mode}{rank}" for mode, rank in zip(modes, ranks, strict=True))
    return torch.einsum(f"...{ranks}{terms}->...{modes}", core, *eyes)


def test_a_matrix_by_hand():
    layout = make_layout({"w": (2, 2)}, (1, 1))
    # Core 2; factors [1, 3] and [5, -1]: 2 · [1, 3] ⊗ [5, -1].
    stack = Stack(layout, torch.tensor([2.0, 1.0, 3.0, 5.0, -1.0]))
    assert stack.dense()["w"].tolist() == [[10.0, -2.0], [30.0, -6.0]]
    cp = Stack(make_layout({"w": (2, 2)}, 1, "cp"), torch.tensor([1.0, 3.0, 5.0, -1.0]))
    assert cp.dense()["w"].tolist() == [[5.0, -1.0], [15.0, -3.0]]


MODE = st.integers(1, 4).flatmap(lambda d: st.tuples(st.just(d), st.integers(1, d)))
"""A dimension and a rank for it."""
TENSORS = st.lists(st.lists(MODE, max_size=4), min_size=1, max_size=3)
FORMS = st.sampled_from(["tucker", "cp"])
LEADS = st.lists(st.integers(1, 3), max_size=2)


def layout_of(tensors, form):
    shapes = {f"w{i}": tuple(d for d, _ in modes) for i, modes in enumerate(tensors)}
    ranks = {f"w{i}": tuple(r for _, r in modes) for i, modes in enumerate(tensors)}
    return make_layout(shapes, ranks, form)


@given(tensors=TENSORS, form=FORMS, lead=LEADS)
def test_any_layout_equals_the_einsum(tensors, form, lead):
    layout = layout_of(tensors, form)
    stack = random_stack(layout, *lead)
    dense, pieces, norms = stack.dense(), stack.pieces(), stack.norms()
    assert list(dense) == layout.names
    for number, t in enumerate(layout.tensors):
        expected = oracle(t, pieces[t.name])
        assert dense[t.name].shape == (*lead, *t.shape)
        torch.testing.assert_close(dense[t.name], expected, rtol=1e-11, atol=1e-11)
        squares = expected.reshape(*lead, -1).square().sum(-1)
        torch.testing.assert_close(norms[..., number].square(), squares)
    assert stack.flat().shape == (*lead, layout.n_parameters)


def test_flat_is_the_dense_tensors_in_model_order():
    layout = make_layout({"b": (3,), "s": (), "a": (2, 2)}, 1)
    stack = random_stack(layout, 4)
    dense = stack.dense()
    flat = stack.flat()
    assert torch.equal(flat[:, :3], dense["b"])
    assert torch.equal(flat[:, 3], dense["s"])
    assert torch.equal(flat[:, 4:], dense["a"].flatten(1))


def test_select_takes_from_the_first_leading_axis():
    stack = random_stack(make_layout({"w": (4, 3)}, 2), 3, 2)
    assert torch.equal(stack.select(1).flat(), stack.flat()[1])
    assert torch.equal(stack.select(slice(0, 2)).flat(), stack.flat()[:2])


@given(tensors=TENSORS, form=FORMS)
def test_scaled_multiplies_every_direction_and_unit_ones_have_norm_one(tensors, form):
    stack = random_stack(layout_of(tensors, form), 2, 3)
    before, factor = stack.flat(), normal(2, 3, seed=1).abs() * 5 + 0.1
    torch.testing.assert_close(stack.scaled(factor).flat(), before * factor[..., None])
    torch.testing.assert_close(unit(stack).flat(), before / before.norm(dim=-1, keepdim=True))


def test_scaled_spreads_the_factor_evenly_over_the_pieces():
    layout = make_layout({"w": (4, 6), "b": (3,)}, 2)
    stack = random_stack(layout, 2)
    scaled = stack.scaled(torch.tensor([8.0, 27.0]).double())
    # Three pieces (core, two factors): cube roots 2 and 3. The bias is one piece: 8 and 27.
    for old, new in zip(stack.pieces()["w"], scaled.pieces()["w"], strict=True):
        torch.testing.assert_close(new[0], 2 * old[0])
        torch.testing.assert_close(new[1], 3 * old[1])
    torch.testing.assert_close(scaled.pieces()["b"][0][1], 27 * stack.pieces()["b"][0][1])


def test_unit_is_one_norm_over_all_tensors_not_one_per_tensor():
    layout = make_layout({"a": (2,), "b": (2,)}, 1)
    found = unit(Stack(layout, torch.tensor([[3.0, 0.0, 0.0, 4.0]])))
    # Norm 5 over both. The authors' code divides by sqrt(3 + 4), whose fixed point is 3/7 and 4/7.
    torch.testing.assert_close(found.flat(), torch.tensor([[0.6, 0.0, 0.0, 0.8]]))
    stack = Stack(make_layout({"w": (3, 2)}, 1), torch.zeros(2, 6))
    assert unit(stack).flat().tolist() == [[0.0] * 6] * 2  # not NaN


@pytest.mark.parametrize("form", ["tucker", "cp"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_initial_directions_are_unit_and_random(form, dtype):
    layout = make_layout({"w": (6, 5), "k": (4, 3, 3), "b": (6,)}, 2, form)
    stack = initial_stack(
        layout, (3, 8), torch.Generator().manual_seed(0), torch.zeros(1, dtype=dtype)
    )
    flat = stack.flat()
    assert stack.weights.dtype == dtype
    torch.testing.assert_close(flat.norm(dim=-1), torch.ones(3, 8, dtype=dtype))
    cosines = flat.flatten(0, 1) @ flat.flatten(0, 1).mT - torch.eye(24, dtype=dtype)
    assert cosines.abs().max() < 0.9


def test_the_start_depends_on_the_generator_only():
    layout = make_layout({"w": (6, 5)}, 2)
    state = torch.get_rng_state()

    def start(seed):
        generator = torch.Generator().manual_seed(seed)
        return initial_stack(layout, (4,), generator, torch.zeros(())).weights

    assert torch.equal(start(0), start(0))
    assert not torch.equal(start(0), start(1))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("form", ["tucker", "cp"])
@pytest.mark.parametrize("shape", [(20, 30), (12, 10, 8)], ids=str)
@pytest.mark.parametrize("rank", [1, 4, 9])
def test_the_start_gives_every_tensor_the_same_mean_square_per_entry(form, shape, rank):
    # The long vector makes up the norm, so that the common scale depends on none of the others.
    layout = make_layout({"w": shape, "b": (8000,), "s": ()}, rank, form)
    stack = initial_stack(layout, (500,), torch.Generator().manual_seed(0), torch.zeros(()))
    square = {name: d.square().mean() for name, d in stack.dense().items()}
    # The square of one Gaussian (a core of rank 1) scatters by sqrt(2); the mean of 500, by 6 %.
    assert math.isclose(square["w"] / square["b"], 1.0, abs_tol=0.3)
    assert math.isclose(square["s"] / square["b"], 1.0, abs_tol=0.3)


@pytest.mark.parametrize("form", ["tucker", "cp"])
def test_turned_directions_are_the_negative_ones(form):
    layout = make_layout({"a": (3, 4), "b": (2,)}, 2, form)
    stack = initial_stack(
        layout, (2, 3), torch.Generator().manual_seed(0), torch.zeros(()).double()
    )
    sign = torch.tensor([[1, -1, 1], [-1, 1, -1]]).double()
    assert torch.equal(stack.turned(sign).flat(), stack.flat() * sign[..., None])
