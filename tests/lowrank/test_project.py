import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from subscape.lowrank import Stack, initial_stack, make_layout
from subscape.lowrank import project as module
from subscape.lowrank.project import LARGE, project
from tests.conftest import normal

SHAPES = {"w": (5, 4), "k": (4, 3, 3), "b": (3,)}


@pytest.mark.parametrize(
    ("shapes", "rank", "form"),
    [(SHAPES, 2, "tucker"), ({"w": (5, 4), "b": (3,)}, 2, "cp"), ({"k": (4, 3, 2)}, 1, "cp")],
)
def test_directions_of_the_layouts_rank_are_kept(shapes, rank, form):
    layout = make_layout(shapes, rank, form)
    exact = initial_stack(layout, (6,), torch.Generator().manual_seed(0), normal()).flat()
    torch.testing.assert_close(project(layout, exact).flat(), exact, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("form", ["tucker", "cp"])
def test_matrices_are_cut_to_their_leading_singular_vectors(form):
    # Eckart-Young: the squared distance is the sum of the squared singular values left out.
    directions = normal(3, 20)
    found = project(make_layout({"w": (5, 4)}, 2, form), directions).flat()
    values = torch.linalg.svdvals(directions.view(3, 5, 4))
    left_out = values[:, 2:].square().sum(-1)
    torch.testing.assert_close((found - directions).square().sum(-1), left_out)


@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple),
    form=st.sampled_from(["tucker", "cp"]),
    rank=st.integers(1, 3),
)
def test_a_projection_never_lies_further_off_than_the_origin(shape, form, rank):
    layout = make_layout({"w": shape}, min(rank, max(shape)), form)
    directions = normal(3, layout.n_parameters)
    found = project(layout, directions)
    assert isinstance(found, Stack)
    assert found.weights.shape == (3, layout.size)
    distance = (found.flat() - directions).norm(dim=-1)
    assert (distance <= directions.norm(dim=-1) * (1 + 1e-9)).all()


def test_zeros_stay_zero_and_scalars_are_whole():
    layout = make_layout(SHAPES, 2)
    assert project(layout, torch.zeros(2, layout.n_parameters)).flat().abs().max() == 0
    layout, directions = make_layout({"w": (3, 2), "s": ()}, 1), normal(2, 7)
    torch.testing.assert_close(project(layout, directions).flat()[:, -1], directions[:, -1])


def decaying(*shape, ratio=0.5):
    """Two matrices of full rank whose singular values fall by `ratio`."""
    n = min(shape)
    left, right = (torch.linalg.qr(normal(2, d, n, seed=d + 1)).Q for d in shape)
    return (left * ratio ** torch.arange(n)) @ right.mT


@pytest.fixture
def seen(monkeypatch):
    """Shapes of what is decomposed in full."""
    shapes, original = [], torch.linalg.svd

    def svd(matrices, **options):
        shapes.append(tuple(matrices.shape))
        return original(matrices, **options)

    monkeypatch.setattr(torch.linalg, "svd", svd)
    return shapes


@pytest.mark.parametrize("shape", [(LARGE + 2, LARGE + 30), (LARGE + 30, LARGE + 2)], ids=str)
@pytest.mark.parametrize("form", ["tucker", "cp"])
@pytest.mark.parametrize(("rank", "ratio"), [(1, 0.1), (4, 0.5)])
def test_large_matrices_are_cut_to_their_leading_singular_vectors(shape, form, rank, ratio, seen):
    matrices = decaying(*shape, ratio=ratio)
    found = project(make_layout({"w": shape}, rank, form), matrices.flatten(1)).dense()["w"]
    # Only matrices with at most twice `rank` rows or columns are decomposed.
    assert max(min(rows, columns) for _, rows, columns in seen) <= 2 * rank
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    expected = (left[..., :rank] * values[:, None, :rank]) @ right[:, :rank]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_most_is_kept_of_large_matrices_where_the_spectrum_is_flat(rank):
    matrices = normal(2, LARGE + 2, LARGE + 30)
    layout = make_layout({"w": matrices.shape[1:]}, rank, "cp")
    found = project(layout, matrices.flatten(1)).dense()["w"]
    squares = torch.linalg.svdvals(matrices).square()
    kept = squares.sum(-1) - (found - matrices).square().sum((-2, -1))
    most = squares[:, :rank].sum(-1)
    assert (kept <= most * (1 + 1e-9)).all()
    assert (kept >= 0.75 * most).all()


@pytest.mark.parametrize(
    ("shape", "rank", "whole"),
    [
        ((LARGE, LARGE + 30), 1, True),
        ((LARGE + 2, LARGE + 2), LARGE // 2 + 2, True),
        ((LARGE + 2, LARGE + 2), LARGE // 2 + 1, False),
    ],
    ids=["small", "high rank", "just not"],
)
def test_what_is_decomposed_in_full(shape, rank, whole, seen):
    project(make_layout({"w": shape}, rank, "cp"), decaying(*shape, ratio=0.9).flatten(1))
    assert seen == [(2, *shape) if whole else (2, 2 * rank, shape[1])]


@pytest.mark.parametrize("form", ["tucker", "cp"])
def test_large_kernels_are_as_by_full_decompositions(form, monkeypatch):
    shape = (LARGE + 2, LARGE + 4, 2)
    layout = make_layout({"k": shape}, (2, 2, 1) if form == "tucker" else 2, form)
    slices = decaying(*shape[:2])
    directions = torch.stack([slices[0], 0.3 * slices[0] + 0.1 * slices[1]], dim=-1).flatten()[None]
    found = project(layout, directions).flat()
    monkeypatch.setattr(module, "LARGE", 10**9)
    expected = project(layout, directions).flat()
    assert expected.norm() > 0.5 * directions.norm()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_large_matrices_leave_global_randomness_alone():
    shape = (LARGE + 2, LARGE + 30)
    layout, directions = make_layout({"w": shape}, 2), normal(2, shape[0] * shape[1])
    state = torch.get_rng_state()
    first = project(layout, directions).weights
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert torch.equal(project(layout, directions).weights, first)


def test_large_zero_and_single_precision_directions():
    shape = (LARGE + 2, LARGE + 2)
    layout = make_layout({"w": shape}, 2)
    assert project(layout, torch.zeros(1, shape[0] * shape[1])).flat().abs().max() == 0
    matrices = decaying(*shape)
    found = project(layout, matrices.flatten(1).float())
    assert found.weights.dtype == torch.float32
    expected = project(layout, matrices.flatten(1)).flat()
    torch.testing.assert_close(found.flat().double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", ["tucker", "cp"])
def test_singular_values_that_are_equal_are_cut_alike_in_both_modes(form):
    # Any two of six are best. Modes cut each for itself would keep pairs that do not belong together.
    orthogonal = torch.linalg.qr(normal(20, 6, 6)).Q
    found = project(make_layout({"w": (6, 6)}, 2, form), orthogonal.flatten(1)).flat()
    torch.testing.assert_close(found.square().sum(1), torch.full((20,), 2.0).double())
