"""Row weights and the metric: every form of row gradients against one dense F^(−p); what keeps them, and where."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from subscape import Decomposition, GradientSource, Target, decompose, prepare
from subscape.gradients import (
    DenseGradient,
    IndexedGradient,
    OuterGradient,
    TensorGradient,
    micro_batches,
)
from subscape.gradients import source as source_module
from subscape.gradients import tensor_gradients as module
from subscape.gradients.geometry import FLOOR, Geometry, kronecker
from subscape.gradients.row_gradients import DenseRowGradients, FactoredRowGradients
from subscape.gradients.table_gradients import TiedGradient
from subscape.lowrank import Stack, initial_stack, make_layout
from subscape.lowrank.metric import TensorMetric, tensor_metric
from subscape.rows import generator_of

CLOSE = {"rtol": 1e-9, "atol": 1e-9}
EXACT = {"rtol": 1e-12, "atol": 1e-13}
N_ROWS = 7


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


# Every form against the dense F^(−p)


def gradient_of(form: str, shape: tuple[int, ...], n_terms: int, seed: int) -> TensorGradient:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if form == "dense":
            return DenseGradient(normal(N_ROWS, *shape))
        rest = math.prod(shape[1:])
        outer = OuterGradient(
            normal(N_ROWS, n_terms, shape[0]), normal(N_ROWS, n_terms, rest), shape
        )
        index = torch.randint(0, shape[0], (N_ROWS, n_terms))
        indexed = IndexedGradient(index, normal(N_ROWS, n_terms, rest), shape)
        return {"outer": outer, "indexed": indexed}.get(form) or TiedGradient(outer, indexed)


def moments_of(values: Tensor, *, diagonal_first: bool) -> list[Tensor]:
    """Σ_i G_(m) G_(m)ᵀ of dense rows [row, *shape], the first as its diagonal where asked."""
    axes = "abcd"[: values.dim() - 1]
    found = []
    for mode in axes:
        other = axes.replace(mode, "z")
        found.append(torch.einsum(f"r{axes},r{other}->{mode}z", values, values))
    if diagonal_first:
        found[0] = found[0].diagonal()
    return found


def dense_power(moments: list[Tensor], power: float, damping: float) -> Tensor:
    """F^(−p) of a flattened tensor by one eigendecomposition of F, the Kronecker product of the moments."""
    whole = torch.ones(1, 1, dtype=torch.float64)
    for moment in moments:
        full = torch.diag(moment) if moment.dim() == 1 else moment
        full = (full / full.diagonal().mean()).contiguous()
        whole = torch.kron(whole, full + damping * torch.eye(len(full)).to(full))
    values, vectors = torch.linalg.eigh(whole)
    return (vectors * values**-power) @ vectors.mT


SHAPED = [
    *[("dense", shape) for shape in [(), (5,), (3, 4), (3, 2, 4), (3, 2, 2, 2)]],
    *[("outer", shape) for shape in [(4, 5), (3, 2, 2, 2), (1, 3), (3, 1)]],
    *[(form, shape) for form in ("indexed", "tied") for shape in [(5, 4), (4, 2, 3)]],
]


@pytest.mark.parametrize(("form", "shape"), SHAPED, ids=str)
@settings(max_examples=12)
@given(
    n_terms=st.integers(1, 4),
    power=st.sampled_from([0.25, 0.5, 1.0]),
    damping=st.sampled_from([1e-3, 0.1]),
    seed=st.integers(0, 99),
)
def test_every_form_is_measured_as_by_the_dense_matrix(
    form: str, shape: tuple[int, ...], n_terms: int, power: float, damping: float, seed: int
):
    gradient = gradient_of(form, shape, n_terms, seed)
    dense = gradient.dense()
    on_table = form in ("indexed", "tied")
    expected = moments_of(dense, diagonal_first=on_table)
    moments = gradient.moments()
    torch.testing.assert_close(moments, expected, **CLOSE)

    metric = replace(tensor_metric(moments, power, damping), scale=1.7)
    oracle = 1.7 * dense_power(expected, power, damping)
    flat = dense.reshape(N_ROWS, -1) @ oracle
    moved = gradient.in_metric(metric)
    assert type(moved) is type(gradient)  # nothing becomes dense that is not
    torch.testing.assert_close(moved.dense().reshape(N_ROWS, -1), flat, **CLOSE)
    torch.testing.assert_close(moved.squared_norm(), flat.square().sum(1), **CLOSE)

    stack = initial_stack(make_layout({"w": shape}, 2), (3,), generator_of(seed), normal())
    codes = moved.inner(stack.layout.tensors[0], stack.pieces()["w"])
    torch.testing.assert_close(codes, flat @ stack.flat().mT, **CLOSE)

    factor = torch.arange(1.0, N_ROWS + 1).double()
    scaled = gradient.scaled(factor).dense().reshape(N_ROWS, -1)
    torch.testing.assert_close(scaled, dense.reshape(N_ROWS, -1) * factor[:, None], **EXACT)


@pytest.mark.parametrize("form", ["indexed", "tied"])
def test_a_table_in_a_metric_that_another_engine_made(form: str):
    # Dense rows of a table give a full second moment along it: small data, where outputs are differentiated
    # once, make them; more data are looked up.
    gradient = gradient_of(form, (5, 4), 3, 0)
    dense = DenseGradient(gradient.dense())
    metric = tensor_metric(dense.moments(), 0.5, 0.01)
    assert metric.modes[0].dim() == 2
    found = gradient.in_metric(metric)
    torch.testing.assert_close(found.dense(), dense.in_metric(metric).dense(), **CLOSE)


@pytest.mark.parametrize(("form", "shape"), SHAPED, ids=str)
def test_large_modes_keep_their_diagonal(
    form: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "LARGEST_MODE", 3)
    gradient = gradient_of(form, shape, 3, 1)
    full = moments_of(gradient.dense(), diagonal_first=form in ("indexed", "tied"))
    expected = [m.diagonal() if m.dim() == 2 and len(m) > 3 else m for m in full]
    moments = gradient.moments()
    torch.testing.assert_close(moments, expected, **CLOSE)
    metric = tensor_metric(moments, 0.5, 0.01)
    oracle = dense_power(expected, 0.5, 0.01)
    flat = gradient.dense().reshape(N_ROWS, -1) @ oracle
    found = gradient.in_metric(metric).dense().reshape(N_ROWS, -1)
    torch.testing.assert_close(found, flat, **CLOSE)


def rows_of_all_forms(seed: int) -> FactoredRowGradients:
    forms = {"outer": (4, 5), "indexed": (6, 4), "tied": (5, 3), "dense": (4,)}
    return FactoredRowGradients({
        name: gradient_of(name, shape, 3, seed) for name, shape in forms.items()
    })


def flip_flop(values: Tensor, rounds: int, damping: float) -> list[Tensor]:
    """Second moments of dense rows of a matrix, each in turn with the other mode whitened."""

    def inverse(moment: Tensor) -> Tensor:
        normed = moment / (moment.trace() / len(moment))
        return torch.linalg.inv(normed + damping * torch.eye(len(moment)).to(moment))

    moments = moments_of(values, diagonal_first=False)
    for number in range(rounds):
        if number % 2 == 0:
            moments[0] = torch.einsum("rab,bc,rdc->ad", values, inverse(moments[1]), values)
        else:
            moments[1] = torch.einsum("rab,ac,rcd->bd", values, inverse(moments[0]), values)
    return moments


@pytest.mark.parametrize("rounds", [0, 1, 2, 5])
def test_the_metric_is_the_flip_flop_of_all_batches_together(rounds: int):
    batches = [rows_of_all_forms(seed) for seed in range(3)]
    metric = kronecker(lambda: batches, power=0.5, damping=0.01, rounds=rounds)
    for name in ("outer", "dense"):
        values = torch.cat([b.tensors[name].dense() for b in batches])
        moments = (
            flip_flop(values, rounds, 0.01)
            if values.dim() == 3
            else moments_of(values, diagonal_first=False)
        )
        scale = metric.tensors[name].scale
        oracle = scale * dense_power(moments, 0.5, 0.01)
        found = torch.cat([b.in_metric(metric).tensors[name].dense().flatten(1) for b in batches])
        torch.testing.assert_close(found, values.flatten(1) @ oracle, **CLOSE)


@pytest.mark.parametrize("power", [0.25, 0.5])
def test_all_tensors_get_the_same_mean_square(power: float):
    batches = [rows_of_all_forms(seed) for seed in range(3)]
    metric = kronecker(lambda: batches, power=power, damping=0.01)
    for name in batches[0].tensors:
        moved = [b.tensors[name].in_metric(metric.tensors[name]).squared_norm() for b in batches]
        assert float(torch.cat(moved).mean()) == pytest.approx(0.25, rel=1e-9)


def test_vectors_are_whitened_fully():
    values = normal(50, 4) @ normal(4, 4)
    rows = FactoredRowGradients({"b": DenseGradient(values)})
    moved = rows.in_metric(kronecker(lambda: [rows], power=0.5, damping=0.0)).flat
    torch.testing.assert_close(moved.mT @ moved / 50, torch.eye(4).double() / 4, **CLOSE)


def test_codes_are_slopes_along_the_directions_to_push():
    rows = rows_of_all_forms(0)
    metric = kronecker(lambda: [rows], power=0.5, damping=0.01)
    shapes = {name: tuple(g.dense().shape[1:]) for name, g in rows.tensors.items()}
    for form in ("tucker", "cp"):
        layout = make_layout(shapes, 2, form)
        stack = initial_stack(layout, (6,), generator_of(1), normal())
        codes, slopes = rows.in_metric(metric).inner(stack), rows.inner(metric.to_push(stack))
        torch.testing.assert_close(codes, slopes, **CLOSE)


# Row weights by hand


class Sum(nn.Module):
    """f(x) = w · x with two outputs that are the same: ∂D/∂f and g are known."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.w)[:, None].expand(-1, 2)


def output_times(outputs: Tensor, reference: Tensor) -> Tensor:
    """D = ⟨reference, f⟩, so that ∂D/∂f is the reference."""
    return (outputs * reference).sum(1)


X = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [1.0, 0.0]], dtype=torch.float64)
E = torch.tensor([[3.0, 4.0], [0.03, 0.04], [1e-4, 1e-4], [0.0, 0.0]], dtype=torch.float64)
"""Lengths 5, .05 and 1.4e-4 and nothing; root mean square 2.5."""


def weighed(weight: Any) -> tuple[Tensor, GradientSource]:
    target = Target(Sum())

    def reference(outputs: Tensor, rows: Any) -> Tensor:
        return E[rows.samples]

    source = GradientSource(
        target, X, divergence=output_times, reference=reference, row_weight=weight
    )
    return source.gradients(source.rows_of(torch.arange(4))).flat, source


def test_by_norm_rows_are_as_they_are():
    found, source = weighed("norm")
    torch.testing.assert_close(found, E.sum(1, keepdim=True) * X, **EXACT)
    assert source.geometry == Geometry()


def test_by_output_gradients_have_length_one_down_to_the_floor():
    found, source = weighed("output")
    assert source.geometry.typical_output == pytest.approx(2.5, rel=1e-4)
    floor = FLOOR * source.geometry.typical_output
    # e of lengths 5 and .05 (above the floor of .025) become [.6, .8]; below it is divided by the floor.
    share = torch.tensor([1.4, 1.4, 2e-4 / floor, 0.0], dtype=torch.float64)
    torch.testing.assert_close(found, share[:, None] * X, **EXACT)


@pytest.mark.parametrize("weight", ["unit", 1.0, 0.5, 0.25])
def test_by_a_power_of_the_norm(weight: Any):
    found, source = weighed(weight)
    power = 1.0 if weight == "unit" else float(weight)
    norms = E.sum(1).abs()
    typical = source.geometry.typical_row
    assert typical == pytest.approx(float(norms.square().mean().sqrt()), rel=1e-12)
    # 7, .07 and 2e-4 over a typical 3.5: 2, .02, and below the floor of .01.
    share = (norms / typical).clamp_min(FLOOR) ** -power
    expected = (norms * share)[:, None] * X
    torch.testing.assert_close(found, expected, **EXACT)
    if power == 1:
        assert found.norm(dim=1)[:2].tolist() == pytest.approx([typical] * 2, rel=1e-12)


@pytest.mark.parametrize("weight", [-0.1, 1.1])
def test_other_weights_are_refused(weight: Any):
    with pytest.raises(ValueError, match="^row_weight: expected 'norm', 'output', 'unit', or a"):
        weighed(weight)


# Another parametrisation of the same network


def network() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 6)).double()
    for layer in (0, 1, 3):
        nn.init.orthogonal_(model[layer].weight, gain=1.5)
    return model


def two_maps(seed: int, condition: float) -> tuple[nn.Sequential, nn.Sequential, Tensor]:
    """A network with two linear maps one after the other, and the same one with M and M⁻¹ between them."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, other, x = network(), network(), normal(1000, 8)
        u, _ = torch.linalg.qr(normal(6, 6))
        v, _ = torch.linalg.qr(normal(6, 6))
        between = (u * torch.logspace(0, math.log10(condition), 6).double()) @ v
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        other[0].weight.copy_(between @ model[0].weight)
        other[0].bias.copy_(between @ model[0].bias)
        other[1].weight.copy_(model[1].weight @ torch.linalg.inv(between))
    return model, other, x


def moved_along(stack: Stack, one: GradientSource, other: GradientSource) -> Stack:
    """The same directions of weights in the other parametrisation, as directions in its metric."""
    pushed = one.geometry.metric.to_push(stack)
    first, second = (s.target.parameters["0.weight"].detach() for s in (one, other))
    between = second @ torch.linalg.pinv(first)
    dense = pushed.dense()
    dense["0.weight"] = between @ dense["0.weight"]
    dense["0.bias"] = dense["0.bias"] @ between.mT
    dense["1.weight"] = dense["1.weight"] @ torch.linalg.inv(between)
    whole = make_layout(other.shapes, other.shapes)
    flat = torch.cat([dense[name].flatten(1) for name in whole.names], dim=1)
    return other.geometry.metric.to_gradients(Stack(whole, flat))


PARAMETERS = ["0.*", "1.*"]
REPARAMETRISED = {"reference": "mean", "metric": "kronecker", "metric_damping": 1e-6}


def gram_of(source: GradientSource) -> Tensor:
    gram = source.gradients(source.rows_of(torch.arange(100))).gram()
    return gram / gram.diagonal().mean()


@pytest.mark.parametrize("row_weight", ["norm", "output", "unit"])
def test_a_reparametrised_network_has_the_same_rows_in_the_metric(row_weight: str):
    model, other, x = two_maps(0, 100)
    torch.testing.assert_close(model(x), other(x), rtol=1e-9, atol=1e-9)
    options = REPARAMETRISED | {"row_weight": row_weight}
    one, two = (GradientSource(Target(m, PARAMETERS), x, **options) for m in (model, other))
    assert (gram_of(one) - gram_of(two)).norm() <= 1e-3 * gram_of(one).norm()
    # In the Euclidean metric they have not.
    one, two = (GradientSource(Target(m, PARAMETERS), x, reference="mean") for m in (model, other))
    assert (gram_of(one) - gram_of(two)).norm() > 0.1 * gram_of(one).norm()


def test_codes_of_a_reparametrised_network():
    model, other, x = two_maps(1, 100)
    options = REPARAMETRISED | {"row_weight": "output"}
    result = decompose(
        model,
        x,
        parameters=PARAMETERS,
        n_subnetworks=6,
        l0=2.0,
        rank=2,
        steps=60,
        batch_size=64,
        progress=False,
        **options,
    )
    one = GradientSource(
        Target(model, PARAMETERS), x, reference=result.reference, geometry=result.geometry
    )
    two = GradientSource(Target(other, PARAMETERS), x, **options)
    rows = one.rows_of(torch.arange(200))
    codes = one.gradients(rows).inner(result.encoder)
    theirs = two.gradients(rows).inner(moved_along(result.encoder, one, two))
    for mine, other_codes in zip(codes.mT, theirs.mT, strict=True):
        assert float(torch.corrcoef(torch.stack([mine, other_codes]))[0, 1]) >= 0.999


# Kept, and used everywhere

VOCABULARY, LENGTH = 7, 4


class Words(nn.Module):
    """A small causal language model."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.mix = nn.Embedding(VOCABULARY, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mix(self.table(ids).cumsum(1))))


def words() -> Words:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Words().double()


def token_ids(n: int, seed: int) -> Tensor:
    return torch.randint(0, VOCABULARY, (n, LENGTH), generator=torch.Generator().manual_seed(seed))


ALL = {
    "divergence": "kl",
    "reference": "mean",
    "rows": "token",
    "row_weight": "output",
    "metric": "kronecker",
}


def trained(**options: Any) -> tuple[Words, Decomposition]:
    model = words()
    few = {
        "n_subnetworks": 5,
        "l0": 2.0,
        "rank": 2,
        "steps": 8,
        "batch_size": 32,
        "n_heldout_rows": 128,
    }
    given = ALL | few | {"progress": False} | options
    return model, decompose(model, token_ids(60, 1), **given)


@pytest.mark.parametrize("row_weight", ["norm", "output", "unit", 0.5])
def test_a_loaded_decomposition_has_the_same_codes(tmp_path: Any, row_weight: Any):
    model, result = trained(row_weight=row_weight)
    other = token_ids(30, 2)
    expected = result.encode(model, other)
    again = Decomposition.from_pretrained(result.save_pretrained(tmp_path / "saved"))
    assert (expected != 0).any()
    assert torch.equal(again.encode(model, other), expected)
    assert again.geometry.row_weight == row_weight
    assert torch.equal(again.directions.weights, result.directions.weights)
    # Each of the three is of consequence.
    source = result.source(model, other)
    rows = source.rows_of(torch.arange(30))
    for fewer in (
        {"reference": "uniform"},
        {"geometry": replace(result.geometry, metric=None)},
        {
            "geometry": replace(
                result.geometry, row_weight="norm" if row_weight != "norm" else "unit"
            )
        },
    ):
        given = {"reference": result.reference, "geometry": result.geometry} | fewer
        bare = GradientSource(source.target, other, divergence="kl", rows="token", **given)
        assert not torch.allclose(bare.gradients(rows).flat, source.gradients(rows).flat)


@pytest.mark.parametrize("engine", ["rule", "replay", "loop"])
@pytest.mark.parametrize("row_weight", ["norm", "output", "unit", 0.5])
def test_micro_batches_and_other_data_keep_the_geometry(engine: str, row_weight: Any):
    target = Target(words())
    options = ALL | {"row_weight": row_weight, "engine": {"*": engine}}
    source = GradientSource(target, token_ids(24, 1), **options)
    rows = source.rows(0, 16 * LENGTH)
    whole = source.gradients(rows)
    parts = source.gradients(rows, micro_batch_size=8 * LENGTH)
    torch.testing.assert_close(parts.flat, whole.flat, **EXACT)
    torch.testing.assert_close(parts.squared_norm(), whole.squared_norm(), **EXACT)
    other = source.over(token_ids(12, 2), seed=5)
    assert other.geometry is source.geometry
    assert other.reference is source.reference
    fresh = GradientSource(
        target,
        token_ids(12, 2),
        seed=5,
        **options | {"reference": source.reference, "geometry": source.geometry},
    )
    found, expected = (s.gradients(s.rows(0, 12 * LENGTH)).flat for s in (other, fresh))
    assert torch.equal(found, expected)


def test_engines_agree_on_rows_in_one_metric():
    target = Target(words(), ["mix.*", "head.*"])
    options = {name: value for name, value in ALL.items() if name != "metric"}
    source = GradientSource(target, token_ids(24, 1), metric="kronecker", **options)
    rows = source.rows(0, 16 * LENGTH)
    for engine in ("rule", "replay", "loop"):
        other = GradientSource(target, token_ids(24, 1), engine={"*": engine}, **ALL)
        torch.testing.assert_close(other.gradients(rows).flat, source.gradients(rows).flat, **CLOSE)


def test_row_gradients_in_parts_are_weighed_and_measured_as_in_one():
    source = GradientSource(Target(words()), token_ids(60, 1), **ALL | {"metric": "euclidean"})
    rows = source.rows(0, 40 * LENGTH)
    whole = source.gradients(rows)
    parts = source.gradients(rows, micro_batch_size=8 * LENGTH)
    metric = kronecker(lambda: [whole], power=0.5, damping=0.01)
    factor = torch.arange(1.0, len(rows) + 1).double()
    for one, other in (
        (whole.scaled(factor), parts.scaled(factor)),
        (whole.in_metric(metric), parts.in_metric(metric)),
    ):
        torch.testing.assert_close(other.flat, one.flat, **EXACT)
    flat = DenseRowGradients(whole.flat, source.shapes)
    torch.testing.assert_close(flat.in_metric(metric).flat, whole.in_metric(metric).flat, **CLOSE)
    torch.testing.assert_close(flat.scaled(factor).flat, whole.scaled(factor).flat, **EXACT)


def unseen(ids: Tensor, seen: Tensor) -> Tensor:
    return ids[(ids[:, None] != seen).any(2).all(1)]


def test_rows_held_out_are_measured_as_those_trained_on():
    held = unseen(token_ids(40, 3), token_ids(60, 1))
    prepared = prepare(words(), token_ids(60, 1), heldout=held, n_subnetworks=5, **ALL)
    assert prepared.heldout.geometry is prepared.source.geometry
    assert prepared.heldout.reference is prepared.source.reference
    model, result = trained(heldout=held)
    source = result.source(model, held, seed=1)
    assert source.geometry is result.geometry
    assert source.reference is result.reference
    settings = {"n_rows": 128, "batch_size": 32}
    figures = result.evaluate(model, held, seed=1, **settings)
    own = GradientSource(
        source.target, held, seed=1, **ALL | {"metric": "euclidean", "row_weight": "norm"}
    )
    assert float(figures.fvu) == pytest.approx(result.metrics["fvu"], rel=1e-9)
    plain = replace(result, geometry=own.geometry)
    other = plain.evaluate(model, held, seed=1, **settings)
    assert float(other.fvu) != pytest.approx(result.metrics["fvu"], rel=1e-3)


def test_the_metric_is_that_of_the_training_rows(monkeypatch: pytest.MonkeyPatch):
    source = GradientSource(Target(words()), token_ids(60, 1), **ALL)
    monkeypatch.setattr(source_module, "METRIC_ROWS", 8 * LENGTH)
    monkeypatch.setattr(source_module, "METRIC_BATCH", 8 * LENGTH)
    fewer = GradientSource(Target(words()), token_ids(60, 1), **ALL)
    name = "mix.weight"
    one, other = (s.geometry.metric.tensors[name].modes[0] for s in (source, fewer))
    assert not torch.allclose(one, other, rtol=1e-3)


@pytest.mark.parametrize("engine", ["rule", "replay", "loop"])
def test_gradients_that_are_kept_between_passes_give_the_same_metric(
    monkeypatch: pytest.MonkeyPatch, engine: str
):
    def estimated() -> dict[str, Tensor]:
        monkeypatch.setattr(source_module, "METRIC_BATCH", 8 * LENGTH)
        data, by = token_ids(60, 1), {"*": engine}
        return GradientSource(Target(words()), data, engine=by, **ALL).geometry.state()

    kept = estimated()
    monkeypatch.setattr(micro_batches, "KEPT", 0)
    anew = estimated()
    assert kept.keys() == anew.keys()
    assert all(torch.equal(kept[name], anew[name]) for name in kept)


def test_the_identity_when_nothing_is_whitened():
    one = TensorMetric((torch.eye(3).double(), torch.ones(2).double()), (), 2.0)
    gradient = gradient_of("outer", (3, 2), 2, 0)
    torch.testing.assert_close(gradient.in_metric(one).dense(), 2 * gradient.dense(), **EXACT)
