import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from subscape.lowrank import Stack, initial_stack, make_layout
from subscape.lowrank.project import project


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


SHAPES = {"w": (5, 4), "k": (4, 3, 3), "b": (3,)}


@pytest.mark.parametrize("form", ["tucker", "cp"])
def test_directions_of_the_layouts_rank_are_kept(form: str):
    shapes = SHAPES if form == "tucker" else {"w": (5, 4), "b": (3,)}
    layout = make_layout(shapes, 2, form)
    generator = torch.Generator().manual_seed(0)
    exact = initial_stack(layout, (6,), generator, torch.zeros(()).double()).flat()
    torch.testing.assert_close(project(layout, exact).flat(), exact, rtol=1e-10, atol=1e-12)


def test_cp_kernels_of_rank_one_are_kept():
    layout = make_layout({"k": (4, 3, 2)}, 1, "cp")
    generator = torch.Generator().manual_seed(0)
    exact = initial_stack(layout, (6,), generator, torch.zeros(()).double()).flat()
    torch.testing.assert_close(project(layout, exact).flat(), exact, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("form", ["tucker", "cp"])
def test_matrices_are_cut_to_their_leading_singular_vectors(form: str):
    # Eckart-Young: the squared distance is the sum of the squared singular values left out.
    directions = random(3, 20)
    found = project(make_layout({"w": (5, 4)}, 2, form), directions).flat()
    values = torch.linalg.svdvals(directions.view(3, 5, 4))
    left_out = values[:, 2:].square().sum(-1)
    torch.testing.assert_close((found - directions).square().sum(-1), left_out)


@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple),
    form=st.sampled_from(["tucker", "cp"]),
    rank=st.integers(1, 3),
)
def test_a_projection_never_lies_further_off_than_the_origin(
    shape: tuple[int, ...], form: str, rank: int
):
    layout = make_layout({"w": shape}, min(rank, max(shape)), form)
    directions = random(3, layout.n_parameters)
    found = project(layout, directions)
    assert isinstance(found, Stack)
    assert found.weights.shape == (3, layout.size)
    distance = (found.flat() - directions).norm(dim=-1)
    assert (distance <= directions.norm(dim=-1) * (1 + 1e-9)).all()


def test_zero_directions_stay_zero():
    layout = make_layout(SHAPES, 2)
    assert project(layout, torch.zeros(2, layout.n_parameters)).flat().abs().max() == 0


def test_scalars_are_whole():
    layout = make_layout({"w": (3, 2), "s": ()}, 1)
    directions = random(2, 7)
    torch.testing.assert_close(project(layout, directions).flat()[:, -1], directions[:, -1])
