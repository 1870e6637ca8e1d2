import pytest
import torch

from subscape.lowrank import initial_stack, make_layout
from subscape.measures import random_like

SHAPES = {"kernel": (6, 5, 4), "matrix": (7, 8), "vector": (9,), "scalar": ()}


def stack_of(form, rank=2, lead=(4,), dtype=torch.float64):
    layout = make_layout(SHAPES, rank, form)
    like = torch.empty(0, dtype=dtype)
    return initial_stack(layout, lead, torch.Generator().manual_seed(3), like)


@pytest.mark.parametrize("form", ["tucker", "cp"])
def test_norms_and_ranks_of_every_tensor_are_the_same(form):
    stack = stack_of(form)
    made = random_like(stack)
    assert made.layout == stack.layout
    dense, other = stack.dense(), made.dense()
    for name in SHAPES:
        norms, others = (d[name].reshape(4, -1).norm(dim=1) for d in (dense, other))
        torch.testing.assert_close(others, norms, rtol=1e-12, atol=0)
        if name != "scalar":
            assert not torch.allclose(dense[name], other[name])
    # By the numerical rank of every unfolding of the dense tensors, not by the shapes of the pieces.
    for direction in (*other["kernel"], *other["matrix"]):
        for mode in range(direction.dim()):
            unfolded = direction.movedim(mode, 0).flatten(1)
            assert torch.linalg.matrix_rank(unfolded, rtol=1e-9) == 2


def test_leading_axes_and_seeds():
    for lead in ((), (3,), (2, 3)):
        stack = stack_of("tucker", lead=lead)
        made = random_like(stack)
        assert made.weights.shape == stack.weights.shape
        torch.testing.assert_close(made.norms(), stack.norms(), rtol=1e-12, atol=0)
    torch.manual_seed(0)
    first = random_like(stack, 5).weights
    torch.manual_seed(1)
    assert torch.equal(first, random_like(stack, 5).weights)
    assert not torch.equal(first, random_like(stack, 6).weights)


def test_a_tensor_without_a_part_stays_without():
    stack = stack_of("tucker", dtype=torch.float32)
    weights = stack.weights.clone()
    sizes = stack.layout.sizes
    weights[:, : sizes[0]] = 0  # the core of the kernel
    made = random_like(type(stack)(stack.layout, weights))
    assert made.weights.dtype == torch.float32
    assert torch.equal(made.dense()["kernel"], torch.zeros(4, 6, 5, 4))
    assert (made.dense()["matrix"] != 0).all()


def test_directions_are_drawn_without_a_preference():
    """2,000 directions in 3 dimensions: mean 0 ± 0.013 and second moments 1/3 ± 0.007 per entry."""
    layout = make_layout({"vector": (3,)}, 1)
    many = initial_stack(layout, (2000,), torch.Generator().manual_seed(0), torch.empty(0))
    v = random_like(many).dense()["vector"].double()
    assert v.mean(0).abs().max() < 5 * 0.013
    assert ((v.T @ v) / 2000 - torch.eye(3) / 3).abs().max() < 5 * 0.007
