import pytest
import torch

from subscape.lowrank import initial_stack, make_layout
from subscape.lowrank.combination import Combination

SHAPES = {"wide": (6, 20), "small": (2, 2), "vector": (5,), "kernel": (8, 3, 3, 3)}


@pytest.mark.parametrize("form", ["tucker", "cp"])
@pytest.mark.parametrize("rank", [1, 2, {"kernel": (8, 2, 3, 3), "small": 1, "*": 3}])
def test_the_sum_of_dense_directions(form, rank):
    if form == "cp" and isinstance(rank, dict):
        rank = {"small": 1, "*": 3}
    generator = torch.Generator().manual_seed(0)
    like = torch.empty(0, dtype=torch.float64)
    stack = initial_stack(make_layout(SHAPES, rank, form), (4,), generator, like)
    sizes = torch.tensor([1.0, -2.0, 0.0, 0.5], dtype=torch.float64, requires_grad=True)
    sums = Combination(stack)(sizes)
    for name, dense in stack.dense().items():
        assert sums[name].shape == SHAPES[name]
        torch.testing.assert_close(sums[name], torch.einsum("k,k...->...", sizes, dense))
    weight = {name: torch.randn(shape, dtype=torch.float64) for name, shape in SHAPES.items()}
    sum((sums[name] * weight[name]).sum() for name in SHAPES).backward()
    flat = torch.cat([values.flatten() for values in weight.values()])
    torch.testing.assert_close(sizes.grad, stack.flat() @ flat)


def test_thin_matrices_stay_thin():
    layout = make_layout({"w": (64, 64)}, 2, "tucker")
    stack = initial_stack(layout, (10,), torch.Generator().manual_seed(0), torch.empty(0))
    sizes = {name: tuple(values.shape) for name, values in Combination(stack).named_buffers()}
    assert sizes == {"left_0": (64, 20), "right_0": (20, 64)}
