from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from subscape import GradientSource, Target
from subscape.data import take
from subscape.divergences import MSE
from subscape.gradients import jacobian, loop_gradients, row_outputs, vmap_gradients

MakeCase = Callable[[torch.dtype], Any]


def by_hand(outputs, reference):
    """A divergence that is none of the library's."""
    return (outputs * reference - outputs.sin()).flatten(1).abs().pow(1.5).sum(1)


SAMPLE_ROWS = ["linear", "mlp", "convolution", "raw_parameters", "tied", "llama_sequences"]
"""The cases that have a cached Jacobian."""
MEASURES = [
    ("mse", torch.float64),
    ("half-reference-mse", torch.float64),
    ("kl", torch.float64),
    (by_hand, torch.float64),
    ("kl", torch.float32),
]
"""Divergences and dtypes."""


def worst_row(found, expected):
    """Largest relative L2 error of a row; no row may be zero, or the comparison would be empty."""
    assert (expected.norm(dim=-1) > 0).all()
    return float(((found - expected).norm(dim=-1) / expected.norm(dim=-1)).max())


def oracle_of(source, rows):
    """Its rows' gradients one by one, through model and divergence."""
    reference = source.reference(source.outputs_at(rows), rows)
    inputs = take(source.data, rows.samples)
    return loop_gradients(source.target, inputs, rows.position, reference, source.divergence)


def compare(made, engine, divergence):
    target = Target(made.model, made.parameters)
    source = GradientSource(
        target, made.data, divergence=divergence, rows=made.rows, engine=engine, seed=3
    )
    rows = source.rows(0, source.n_rows)
    oracle, found = oracle_of(source, rows), source.gradients(rows)
    assert found.flat.shape == (source.n_rows, target.n_parameters)
    # Every tensor has its share, so that an engine that leaves one at zero is found out.
    for name, gradient in oracle.dense().items():
        assert gradient.abs().sum() > 0, name
    return worst_row(found.flat, oracle.flat)


# Engines against the oracle


@pytest.mark.parametrize(("divergence", "dtype"), MEASURES)
def test_vmap_equals_the_loop(case, divergence, dtype):
    error = compare(case(dtype), "vmap", divergence)
    assert error <= (1e-9 if dtype == torch.float64 else 1e-4)


@pytest.mark.parametrize("case", SAMPLE_ROWS, indirect=True)
@pytest.mark.parametrize(("divergence", "dtype"), MEASURES)
def test_cached_jacobian_equals_the_loop(case, divergence, dtype):
    error = compare(case(dtype), "jacobian", divergence)
    assert error <= (1e-9 if dtype == torch.float64 else 1e-4)


def flat(by_name):
    return torch.cat([g.reshape(len(g), -1) for g in by_name.values()], dim=1)


def whole(source):
    """All its rows as engines take them, with random output gradients."""
    rows = source.rows(0, len(source))
    e = torch.randn_like(source.outputs_at(rows))
    return take(source.data, rows.samples), rows.position, e


@pytest.mark.parametrize("chunk", [1, 4])
def test_vmap_in_chunks_equals_vmap_at_once(case, chunk):
    made = case(torch.float64)
    target = Target(made.model, made.parameters)
    source = GradientSource(target, made.data, rows=made.rows, engine="vmap")
    given = target, *whole(source)
    at_once, chunked = vmap_gradients(*given), vmap_gradients(*given, chunk=chunk)
    assert worst_row(flat(chunked), flat(at_once)) <= 1e-12


def test_jacobian_in_chunks_equals_jacobian_at_once(case):
    made = case(torch.float64)
    source = GradientSource(Target(made.model, made.parameters), made.data, engine="vmap")
    at_once = jacobian(source.target, source.data)
    torch.testing.assert_close(
        jacobian(source.target, source.data, chunk=4), at_once, rtol=1e-12, atol=1e-14
    )


# The oracle itself


def test_loop_gradients_of_a_linear_map_by_hand():
    # f(x) = W x + b with W = [[1, 2], [0, -1]], b = [1, 0], x = [1, 2]: f = [6, -2].
    # Reference [2, 0]: D = ((6-2)² + (-2)²) / 2 = 10; dD/df = 2 (f − r) / 2 = [4, -2].
    # dD/dW = [4, -2] ⊗ [1, 2] = [[4, 8], [-2, -4]], dD/db = [4, -2].
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0], [0.0, -1.0]]))
        model.bias.copy_(torch.tensor([1.0, 0.0]))
    found = loop_gradients(
        Target(model), torch.tensor([[1.0, 2.0]]), None, torch.tensor([[2.0, 0.0]]), MSE
    )
    assert found.flat.tolist() == [[4.0, 8.0, -2.0, -4.0, 4.0, -2.0]]
    assert found.dense()["weight"].tolist() == [[[4.0, 8.0], [-2.0, -4.0]]]


def test_loop_gradients_equal_finite_differences(case):
    made = case(torch.float64)
    target = Target(made.model, made.parameters)
    source = GradientSource(target, made.data, divergence=by_hand, rows=made.rows, engine="loop")
    rows = source.rows(0, 3)
    inputs, reference = take(source.data, rows.samples), source.outputs_at(rows)[rows.partner]
    generator = torch.Generator().manual_seed(0)
    direction = {
        name: torch.randn(p.shape, generator=generator, dtype=torch.float64)
        for name, p in target.parameters.items()
    }

    def divergence_at(step):
        moved = {name: p.detach() + step * direction[name] for name, p in target.parameters.items()}
        outputs = target.outputs(inputs, moved)
        if rows.position is not None:
            outputs = outputs[torch.arange(3), rows.position]
        return by_hand(outputs, reference)

    with torch.no_grad():
        h = 1e-5
        slope = (divergence_at(h) - divergence_at(-h)) / (2 * h)
    flat = torch.cat([d.flatten() for d in direction.values()])
    analytic = source.gradients(rows).flat @ flat
    # Central differences with h = 1e-5: truncation about 1e-10, rounding about 1e-16 / 1e-5.
    torch.testing.assert_close(slope, analytic, rtol=1e-5, atol=1e-7)


# Row outputs


def test_row_outputs_pick_each_rows_position():
    model = nn.Identity()
    model.weight = nn.Parameter(torch.ones(1))
    inputs = torch.arange(2 * 3 * 2.0).view(2, 3, 2)
    found = row_outputs(Target(model), inputs, torch.tensor([2, 0]))
    # Sample 0 at position 2 holds 4, 5; sample 1 at position 0 holds 6, 7.
    assert found.tolist() == [[4.0, 5.0], [6.0, 7.0]]
    assert torch.equal(row_outputs(Target(model), inputs, None), inputs)


def test_a_token_row_of_an_embedding_touches_its_own_token_only():
    model = nn.Embedding(6, 3).double()
    ids = torch.tensor([[0, 1, 2], [3, 4, 5]])
    target = Target(model)
    source = GradientSource(target, ids, rows="sampled-token", engine="vmap", seed=1)
    rows = source.rows(0, 2)
    gradient = source.gradients(rows).dense()["weight"]
    assert rows.position is not None
    for row, (sample, position) in enumerate(zip(rows.samples, rows.position, strict=True)):
        touched = gradient[row].abs().sum(-1).nonzero().flatten().tolist()
        assert touched == [int(ids[sample, position])]


class BranchesOnValues(nn.Module):
    """As language models do with a padding mask."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3, dtype=torch.float64))

    def forward(self, x, attention_mask):
        outputs = x @ self.weight
        return outputs if attention_mask.all() else outputs * attention_mask


def test_a_mask_of_ones_does_not_stop_vmap_and_a_ragged_one_goes_through_the_loop():
    target = Target(BranchesOnValues())
    x = torch.randn(4, 3, dtype=torch.float64)
    ones = {"x": x, "attention_mask": torch.ones(4, 3, dtype=torch.long)}
    ragged = {"x": x, "attention_mask": torch.ones(4, 3, dtype=torch.long).triu()}
    for engine in ("vmap", "jacobian"):
        source = GradientSource(target, ones, engine=engine)
        rows = source.rows(0, 4)
        assert worst_row(source.gradients(rows).flat, oracle_of(source, rows).flat) <= 1e-12
    with pytest.raises(ValueError, match="engine: expected .* Use engine='loop'"):
        GradientSource(target, ragged, engine="vmap")
    with pytest.warns(UserWarning, match=r"\['weight'\] are made one by one"):
        assert GradientSource(target, ragged).engines == {"weight": "loop"}
    looped = GradientSource(target, ragged, engine="loop", reference="uniform")
    rows = looped.rows(0, 4)
    # dW = x ⊗ masked e, written out.
    e = (2 / 3) * looped.outputs_at(rows) * ragged["attention_mask"][rows.samples]
    expected = torch.einsum("ni,nj->nij", x[rows.samples], e)
    torch.testing.assert_close(looped.gradients(rows).dense()["weight"], expected)


def test_rows_do_not_depend_on_their_neighbours(case):
    made = case(torch.float64)
    target = Target(made.model, made.parameters)
    source = GradientSource(target, made.data, rows=made.rows, engine="vmap")
    inputs, position, e = whole(source)
    together = vmap_gradients(target, inputs, position, e)
    at = None if position is None else position[2:3]
    alone = vmap_gradients(target, take(inputs, slice(2, 3)), at, e[2:3])
    assert worst_row(flat(together)[2:3], flat(alone)) <= 1e-12
