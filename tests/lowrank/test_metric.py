"""The Kronecker metric on directions, against F^(−p) as one dense matrix over the parameters of a tensor."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from subscape.lowrank import Layout, Stack, make_layout
from subscape.lowrank.metric import Metric, TensorMetric, tensor_metric

CLOSE = {"rtol": 1e-9, "atol": 1e-9}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_stack(layout: Layout, *lead: int, seed: int = 0) -> Stack:
    values = torch.randn(*lead, layout.size, generator=generator(seed), dtype=torch.float64)
    return Stack(layout, values)


def random_metric(shapes: dict[str, tuple[int, ...]], power: float = 0.5) -> Metric:
    """A metric from moments of random rows; the first mode of `table` is kept as its diagonal."""
    metrics = {}
    for place, (name, shape) in enumerate(shapes.items()):
        rows = torch.randn(9, *shape, generator=generator(place), dtype=torch.float64)
        unfolded = [rows.movedim(mode + 1, -1).flatten(0, -2) for mode in range(len(shape))]
        moments = [u.mT @ u / 9 for u in unfolded]
        if name == "table":
            moments[0] = moments[0].diagonal()
        metrics[name] = replace(tensor_metric(moments, power, 0.01), scale=0.3 + place)
    return Metric(metrics)


def matrix(metric: TensorMetric, *, inverse: bool = False) -> Tensor:
    """What a metric does to a flattened tensor, as one matrix."""
    whole = torch.full((1, 1), 1 / metric.scale if inverse else metric.scale, dtype=torch.float64)
    for mode in metric.inverse if inverse else metric.modes:
        whole = torch.kron(whole, torch.diag(mode) if mode.dim() == 1 else mode)
    return whole


def on_flat(metric: Metric, flat: Tensor, *, inverse: bool = False) -> Tensor:
    blocks = [matrix(t, inverse=inverse) for t in metric.tensors.values()]
    return flat @ torch.block_diag(*blocks)


# Powers and damping by hand


def test_a_matrix_by_hand():
    # Two rows, [[2, 0], [0, 0]] and [[0, 0], [0, 1]]: both modes have moments diag(4, 1)/2, of mean 5/4.
    moment = torch.diag(torch.tensor([2.0, 0.5], dtype=torch.float64))
    whitened = tensor_metric([moment, moment], 0.5, 0.0)
    for mode, inverse in zip(whitened.modes, whitened.inverse, strict=True):
        assert mode.diagonal().tolist() == pytest.approx([1.6**-0.5, 0.4**-0.5], rel=1e-14)
        assert inverse.diagonal().tolist() == pytest.approx([1.6**0.5, 0.4**0.5], rel=1e-14)
    assert whitened.scale == 1.0


@pytest.mark.parametrize("power", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("damping", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("kept", ["matrix", "diagonal"])
def test_powers_and_damping_by_hand(power: float, damping: float, kept: str):
    # Eigenvalues 3 and 1 along [1, 1]/√2 and [1, −1]/√2 over their mean: 3/2 and 1/2.
    moment = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    big, small = (1.5 + damping) ** -power, (0.5 + damping) ** -power
    expected = [[(big + small) / 2, (big - small) / 2], [(big - small) / 2, (big + small) / 2]]
    if kept == "diagonal":
        moment, expected = moment.diagonal(), [(1 + damping) ** -power] * 2
    metric = tensor_metric([moment], power, damping)
    found, back = metric.modes[0], metric.inverse[0]
    torch.testing.assert_close(
        found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12
    )
    identity = found * back if kept == "diagonal" else found @ back
    one = torch.ones(2) if kept == "diagonal" else torch.eye(2)
    torch.testing.assert_close(identity, one.double(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kept", ["matrix", "diagonal"])
def test_what_no_row_has_stays_finite(kept: str):
    moment = torch.zeros(3, 3).double() if kept == "matrix" else torch.zeros(3).double()
    found = tensor_metric([moment], 0.5, 0.01)
    assert torch.isfinite(found.modes[0]).all()
    assert torch.isfinite(found.inverse[0]).all()


# Directions in their three coordinates

SHAPES: dict[str, tuple[int, ...]] = {
    "matrix": (4, 5),
    "kernel": (3, 4, 2, 2),
    "third": (3, 2, 4),
    "table": (6, 3),
    "vector": (5,),
    "scalar": (),
}
MODE_RANKS = {
    "matrix": st.tuples(st.integers(1, 4), st.integers(1, 5)),
    "kernel": st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 2), st.integers(1, 2)),
    "third": st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(1, 4)),
    "table": st.tuples(st.integers(1, 6), st.integers(1, 3)),
    "vector": st.just((5,)),
    "scalar": st.just(()),
}


@st.composite
def ranks(draw: Any) -> dict[str, tuple[int, ...]] | int:
    """Ranks by tensor for Tucker form, or the number of terms for CP form."""
    by_mode = {name: draw(of_mode) for name, of_mode in MODE_RANKS.items()}
    return by_mode if draw(st.booleans()) else draw(st.integers(1, 4))


FEW = settings(max_examples=30)
"""Each example has tensors of every shape."""
LEADS = st.sampled_from([(), (2,), (2, 3)])


def stack_of(ranks: dict[str, tuple[int, ...]] | int, *lead: int) -> Stack:
    form = "cp" if isinstance(ranks, int) else "tucker"
    return random_stack(make_layout(SHAPES, ranks, form), *lead)


@FEW
@given(ranks=ranks(), lead=LEADS, power=st.sampled_from([0.25, 0.5]))
def test_directions_are_mapped_as_by_the_dense_matrix(
    ranks: dict | int, lead: tuple[int, ...], power: float
):
    stack, metric = stack_of(ranks, *lead), random_metric(SHAPES, power)
    flat = stack.flat()
    pushed, back = metric.to_push(stack), metric.to_gradients(stack)
    torch.testing.assert_close(pushed.flat(), on_flat(metric, flat), **CLOSE)
    torch.testing.assert_close(back.flat(), on_flat(metric, flat, inverse=True), **CLOSE)
    twice = on_flat(metric, on_flat(metric, flat))
    torch.testing.assert_close(metric.read_out(stack).flat(), twice, **CLOSE)
    torch.testing.assert_close(metric.to_gradients(pushed).flat(), flat, **CLOSE)
    torch.testing.assert_close(metric.to_push(back).flat(), flat, **CLOSE)


def ranks_of(dense: Tensor) -> list[int]:
    """Rank of every mode's unfolding."""
    unfolded = [dense.movedim(mode, 0).reshape(n, -1) for mode, n in enumerate(dense.shape)]
    return [int(torch.linalg.matrix_rank(u, rtol=1e-9)) for u in unfolded]


@FEW
@given(ranks=ranks())
def test_ranks_stay_what_they_are(ranks: dict | int):
    one, metric = stack_of(ranks), random_metric(SHAPES)
    for moved in (metric.to_push(one), metric.to_gradients(one)):
        assert moved.layout is one.layout
        for name, before in one.dense().items():
            assert ranks_of(moved.dense()[name]) == ranks_of(before)


@FEW
@given(ranks=ranks())
def test_pushing_moves_rows_by_their_codes(ranks: dict | int):
    stack, metric = stack_of(ranks, 3), random_metric(SHAPES)
    rows = torch.randn(7, stack.layout.n_parameters, generator=generator(5), dtype=torch.float64)
    codes = on_flat(metric, rows) @ stack.flat().mT
    slopes = rows @ metric.to_push(stack).flat().mT
    torch.testing.assert_close(slopes, codes, **CLOSE)


# Saving


def test_a_metric_comes_back_as_it_was():
    metric = random_metric(SHAPES)
    again = Metric.from_state(metric.state(), SHAPES)
    stack = random_stack(make_layout(SHAPES, 2), 3)
    assert torch.equal(again.to_push(stack).weights, metric.to_push(stack).weights)
    assert torch.equal(again.to_gradients(stack).weights, metric.to_gradients(stack).weights)


def test_another_type():
    moved = random_metric(SHAPES).to(torch.zeros((), dtype=torch.float32))
    stack = random_stack(make_layout(SHAPES, 2), 3)
    single = Stack(stack.layout, stack.weights.float())
    assert moved.to_push(single).weights.dtype == torch.float32


def test_without_a_mode():
    metric = random_metric(SHAPES).tensors["matrix"]
    expected = metric.scale * torch.kron(metric.modes[0], torch.eye(5).double())
    torch.testing.assert_close(matrix(metric.without(1)), expected, **CLOSE)


def test_tensors_in_full_are_mapped_as_directions_are():
    shapes = {"table": (4, 3), "kernel": (3, 2, 2, 2), "vector": (5,)}
    metric, stack = random_metric(shapes), random_stack(make_layout(shapes, 2), 3)
    for inverse, expected in ((False, metric.to_push(stack)), (True, metric.to_gradients(stack))):
        for k in range(3):
            moved = metric.on_tensors(stack.select(k).dense(), inverse=inverse)
            for name, values in expected.select(k).dense().items():
                torch.testing.assert_close(moved[name], values, **CLOSE)
