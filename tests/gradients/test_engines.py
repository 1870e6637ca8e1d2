import pytest
import torch
from torch import nn

from subscape import GradientSource, Target
from subscape.data import take
from subscape.divergences import MSE
from subscape.gradients import jacobian, loop_gradients, row_outputs, vmap_gradients
from tests.gradients.conftest import assert_right, worst_row

SAMPLE_ROWS = ["linear", "mlp", "convolution", "raw_parameters", "tied", "llama_sequences"]
"""The cases that have a cached Jacobian."""


def by_hand(outputs, reference):
    """A divergence that is none of the library's."""
    return (outputs * reference - outputs.sin()).flatten(1).abs().pow(1.5).sum(1)


def source_of(made, **options):
    target = Target(made.model, made.parameters)
    return GradientSource(target, made.data, rows=made.rows, seed=3, **options)


@pytest.mark.parametrize(
    ("divergence", "dtype"),
    [
        ("mse", torch.float64),
        ("half-reference-mse", torch.float64),
        ("kl", torch.float64),
        (by_hand, torch.float64),
        ("kl", torch.float32),
    ],
)
def test_engines_equal_the_oracle(case, divergence, dtype, request):
    bound = 1e-9 if dtype == torch.float64 else 1e-4
    cached = request.node.callspec.params["case"] in SAMPLE_ROWS
    for engine in ("vmap", "loop", "jacobian")[: 2 + cached]:
        assert_right(source_of(case(dtype), engine=engine, divergence=divergence), bound)


def flat(by_name):
    return torch.cat([g.reshape(len(g), -1) for g in by_name.values()], dim=1)


def test_vmap_in_chunks_or_row_by_row_equals_vmap_at_once(case):
    source = source_of(case(torch.float64), engine="vmap")
    rows = source.rows(0, len(source))
    e, inputs = torch.randn_like(source.outputs_at(rows)), take(source.data, rows.samples)
    at_once = flat(vmap_gradients(source.target, inputs, rows.position, e))
    for chunk in (1, 4):
        chunked = vmap_gradients(source.target, inputs, rows.position, e, chunk=chunk)
        assert worst_row(flat(chunked), at_once) <= 1e-12
    at = None if rows.position is None else rows.position[2:3]
    alone = vmap_gradients(source.target, take(inputs, slice(2, 3)), at, e[2:3])
    assert worst_row(flat(alone), at_once[2:3]) <= 1e-12


def test_jacobian_in_chunks_equals_jacobian_at_once(case):
    source = source_of(case(torch.float64), engine="vmap")
    at_once, chunked = (jacobian(source.target, source.data, chunk=n) for n in (64, 4))
    torch.testing.assert_close(chunked, at_once, rtol=1e-12, atol=1e-14)


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
    source = source_of(case(torch.float64), engine="loop", divergence=by_hand)
    target, rows = source.target, source.rows(0, 3)
    inputs, reference = take(source.data, rows.samples), source.outputs_at(rows)[rows.partner]
    direction = {name: torch.randn_like(p) for name, p in target.parameters.items()}

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
    # Central differences with h = 1e-5: truncation about 1e-10, rounding about 1e-16 / 1e-5.
    torch.testing.assert_close(slope, source.gradients(rows).flat @ flat, rtol=1e-5, atol=1e-7)


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
        assert_right(GradientSource(target, ones, engine=engine), 1e-12)
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
