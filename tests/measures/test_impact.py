"""Impact against a plain loop over rows and references, and a pass that stops and goes on."""

import math
from dataclasses import dataclass, fields, replace

import pytest
import torch
from torch import nn

from subscape import GradientSource, Target
from subscape._io import read_tensors, write_tensors
from subscape.lowrank import Stack, make_layout
from subscape.measures import impact as impact_module
from subscape.measures.impact import coefficients_over_references, draws_of, impact
from subscape.rows import permutation


def source_of(made, rows="sample", **options):
    return GradientSource(made.target, made.data, rows=rows, **options)


@dataclass
class Plain:
    """What a loop over rows and references finds: coefficients [row, reference, subnetwork]."""

    samples: list[int]
    positions: list[int]
    coefficients: torch.Tensor
    norms: torch.Tensor


def by_loop(made, source, n_references, batch_size):
    """Every row's gradient by autograd, one by one; references as the source draws them."""
    v = made.decomposition.encoder.flat()
    parameters = [p.detach().clone().requires_grad_() for p in made.target.parameters.values()]
    names = list(made.target.parameters)
    order = permutation(len(source), source.seed, 0)
    found = Plain([], [], torch.empty(0), torch.empty(0))
    coefficients, norms = [], []
    for draws in draws_of(source, order, n_references, batch_size, first=0):
        references = [source.reference(source.outputs_at(draw), draw) for draw in draws]
        for row in range(len(draws[0].samples)):
            sample = int(draws[0].samples[row])
            position = 0 if draws[0].position is None else int(draws[0].position[row])
            found.samples.append(sample)
            found.positions.append(position)
            of_row = []
            for draw, reference in zip(draws, references, strict=True):
                assert int(draw.samples[row]) == sample
                inputs = (
                    {k: x[sample : sample + 1] for k, x in source.data.items()}
                    if isinstance(source.data, dict)
                    else source.data[sample : sample + 1]
                )
                output = made.target.outputs(inputs, dict(zip(names, parameters, strict=True)))
                if draw.position is not None:
                    output = output[:, position]
                value = source.divergence(output, reference[row : row + 1]).sum()
                gradient = torch.autograd.grad(value, parameters, materialize_grads=True)
                of_row.append(torch.cat([g.flatten() for g in gradient]))
            g = torch.stack(of_row)
            coefficients.append(g @ v.T)
            norms.append(g.norm(dim=1))
    found.coefficients, found.norms = torch.stack(coefficients), torch.stack(norms)
    return found


def assert_right(made, source, found, plain, n_top, repeat):
    c, threshold = plain.coefficients, made.decomposition.threshold
    size, signed = c.abs().mean(1), c.mean(1)
    active = (c.abs() >= threshold).double()
    assert found.n_rows == len(c)
    assert 0 < active.mean() < 1
    close = {"rtol": 1e-9, "atol": 1e-13}
    torch.testing.assert_close(found.mean, size.mean(0), **close)
    torch.testing.assert_close(found.signed, signed.mean(0), **close)
    torch.testing.assert_close(found.normalised, size.mean(0) / plain.norms.mean(), **close)
    flat = active.flatten(0, 1)
    torch.testing.assert_close(found.active_rate, flat.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(found.together, flat.T @ flat / len(flat), rtol=1e-14, atol=0)
    for k, top in enumerate(found.top):
        rows = sorted(range(len(c)), key=lambda i: -float(size[i, k]))
        if not repeat:
            seen: set[int] = set()
            rows = [i for i in rows if not (plain.samples[i] in seen or seen.add(plain.samples[i]))]
        rows = rows[:n_top]
        assert top.rows.samples.tolist() == [plain.samples[i] for i in rows]
        if source.kind == "sample":
            assert top.rows.position is None
        else:
            assert top.rows.position.tolist() == [plain.positions[i] for i in rows]
        torch.testing.assert_close(top.impact, size[rows, k], **close)
        torch.testing.assert_close(top.signed, signed[rows, k], **close)


CASES = [
    ("mlp", "sample", "mse", "another-row", "*"),
    ("mlp", "sample", "half-reference-mse", "uniform", "*"),
    ("convolution", "sample", "mse", "another-row", "*"),
    ("tokens", "token", "kl", "another-row", "*"),
    ("llama", "token", "kl", "another-row", ["model.layers.1.*"]),
]


@pytest.mark.parametrize(("kind", "rows", "divergence", "reference", "parameters"), CASES)
@pytest.mark.parametrize("repeat", [False, True])
def test_impact_is_what_a_plain_loop_finds(
    small, kind, rows, divergence, reference, parameters, repeat
):
    made = small(kind, n=17, parameters=parameters, threshold=0.05)
    source = source_of(made, rows, divergence=divergence, reference=reference, seed=4)
    options = {"n_references": 3, "batch_size": 9 * source.draws.per_sample}
    plain = by_loop(made, source, **options)
    found = impact(
        made.decomposition,
        source,
        n_top=4,
        repeat_samples=repeat,
        progress=False,
        **options,
    )
    assert found.n_references == 3
    assert_right(made, source, found, plain, 4, repeat)


def by_hand(decomposition_of):
    """f = w·x with w = (1, 0), D = f² (mse to 0): g = 2 f x. Subnetworks along x₁ and x₂."""
    model = nn.Linear(2, 1, bias=False).double()
    model.weight.data = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    data = torch.tensor([[1.0, 2.0], [-2.0, 0.5], [0.0, 3.0], [0.5, 0.0]], dtype=torch.float64)
    target = Target(model)
    layout = make_layout(target.shapes, {"weight": (1, 2)})
    stack = Stack(layout, torch.eye(2, dtype=torch.float64))
    source = GradientSource(target, data, reference="uniform")
    return decomposition_of(stack, stack, 2.0, target.fingerprint(), {}), source


def test_small_numbers_by_hand(make_decomposition):
    """Outputs 1, −2, 0, 0.5. Gradients 2 f x: (2, 4), (8, −2), (0, 0), (0.5, 0)."""
    made, source = by_hand(make_decomposition)
    found = impact(made, source, n_references=2, n_top=2, batch_size=2, progress=False)
    assert found.mean.tolist() == [10.5 / 4, 6 / 4]
    assert found.signed.tolist() == [10.5 / 4, 2 / 4]
    lengths = [math.sqrt(20), math.sqrt(68), 0.0, 0.5]
    assert found.normalised.tolist() == pytest.approx([10.5 / sum(lengths), 6 / sum(lengths)])
    # At or above 2: rows 0 and 1 for both.
    assert found.active_rate.tolist() == [0.5, 0.5]
    assert found.together.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert found.coactivation().tolist() == [[1, 1], [1, 1]]
    assert [t.rows.samples.tolist() for t in found.top] == [[1, 0], [0, 1]]
    assert [t.impact.tolist() for t in found.top] == [[8, 2], [4, 2]]
    assert [t.signed.tolist() for t in found.top] == [[8, 2], [4, -2]]


def test_rows_without_impact_are_no_top_rows(make_decomposition):
    made, source = by_hand(make_decomposition)
    found = impact(made, source, n_references=1, n_top=4, progress=False)
    assert found.top[0].rows.samples.tolist() == [1, 0, 3]
    assert found.top[1].rows.samples.tolist() == [0, 1]
    silent = made.encoder.scaled(torch.tensor([1.0, 0.0]).double())
    nothing = make_decomposition(silent, silent, 2.0, made.target, {})
    empty = impact(nothing, source, n_references=1, n_top=4, progress=False).top[1]
    assert len(empty.rows) == 0
    assert empty.impact.numel() == 0


def test_more_top_rows_than_rows(make_decomposition):
    made, source = by_hand(make_decomposition)
    found = impact(made, source, n_references=1, n_top=50, batch_size=3, progress=False)
    assert [len(t.rows) for t in found.top] == [3, 2]


def test_coactivation_of_one_that_is_always_active_is_nan(small):
    """Even where 1/n_references is no binary fraction: pairs are counted, not shares added up."""
    made = small("mlp", n=49, threshold=0.0)
    found = impact(
        made.decomposition, source_of(made), n_references=3, batch_size=7, progress=False
    )
    assert found.active_rate.tolist() == [1.0] * 5
    assert found.coactivation().isnan().all()


def test_coactivation_is_the_correlation(small):
    made = small("mlp", n=30, threshold=0.2)
    source = source_of(made)
    found = impact(made.decomposition, source, n_references=4, batch_size=10, progress=False)
    plain = by_loop(made, source, 4, 10)
    active = (plain.coefficients.abs() >= 0.2).double().flatten(0, 1)
    assert ((active.mean(0) > 0) & (active.mean(0) < 1)).all()
    torch.testing.assert_close(found.coactivation(), torch.corrcoef(active.T))


@pytest.mark.parametrize("kind", ["mlp", "convolution"])
def test_the_size_of_batches_does_not_matter(small, kind):
    made = small(kind, n=23)
    one, other = (
        impact(
            made.decomposition,
            source_of(made),
            n_references=2,
            batch_size=b,
            n_top=9,
            progress=False,
        )
        for b in (4, 60)
    )
    for name in ("mean", "signed", "normalised", "active_rate", "together"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-12, atol=1e-15)
    for a, b in zip(one.top, other.top, strict=True):
        assert a.rows.samples.tolist() == b.rows.samples.tolist()
        torch.testing.assert_close(a.impact, b.impact, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("batch_size", [2, 10, 100, 1000])
def test_of_equal_rows_those_seen_first_stay(make_decomposition, batch_size):
    made, source = by_hand(make_decomposition)
    data = torch.tensor([[1.0, 2.0]], dtype=torch.float64).expand(300, 2)
    source = GradientSource(source.target, data, reference="uniform", seed=3)
    found = impact(made, source, n_references=1, batch_size=batch_size, progress=False)
    order = permutation(300, 3, 0)
    for top in found.top:
        assert top.rows.samples.tolist() == order[:20].tolist()


def test_references_are_drawn_anew(small):
    made = small("mlp")
    source = source_of(made)
    (draws,) = draws_of(source, torch.arange(6), 4, 256, first=0)
    coefficients, norms = coefficients_over_references(source, draws, made.decomposition.encoder)
    assert coefficients.shape == (4, 6, 5)
    assert norms.shape == (4, 6)
    assert len(coefficients.flatten(1).unique(dim=0)) == 4


def test_a_number_of_rows_is_rounded_up_to_samples(small):
    made = small("tokens")
    source = source_of(made, "token", divergence="kl")
    assert impact(made.decomposition, source, n_rows=11, progress=False).n_rows == 15
    assert impact(made.decomposition, source, n_rows=10**6, progress=False).n_rows == 100


# Stopping and going on


class Stop(Exception):
    pass


def same(a, b):
    tensors = all(
        torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a) if f.name in TENSORS
    )
    tops = all(
        torch.equal(s.rows.samples, t.rows.samples)
        and torch.equal(s.rows.position, t.rows.position)
        and torch.equal(s.impact, t.impact)
        and torch.equal(s.signed, t.signed)
        for s, t in zip(a.top, b.top, strict=True)
    )
    return tensors and tops and (a.n_rows, a.n_references) == (b.n_rows, b.n_references)


TENSORS = ("mean", "signed", "normalised", "active_rate", "together")


def passing(small, **options):
    # Groups of 8 samples with 5 positions each are never cut.
    made = small("tokens", n=80, dtype=torch.float32)
    source = source_of(made, "token", divergence="kl", seed=options.pop("seed", 0))
    settings = {"n_references": 2, "n_top": 3, "batch_size": 40, "progress": False} | options
    return lambda **more: impact(made.decomposition, source, **settings, **more)


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
@pytest.mark.parametrize("save_every", [1, 4, 20])
def test_an_interrupted_pass_goes_on_and_ends_the_same(
    small, tmp_path, monkeypatch, error, save_every
):
    run = passing(small)
    expected = run()
    state = tmp_path / "impact.safetensors"
    monkeypatch.setattr(impact_module, "SAVE_EVERY", save_every)
    right, calls = impact_module.coefficients_over_references, []

    def stopping(*arguments):
        calls.append(arguments)
        if len(calls) % 4 == 0:  # three batches at a time
            raise error
        return right(*arguments)

    monkeypatch.setattr(impact_module, "coefficients_over_references", stopping)
    for n_done in (3, 6, 9):
        with pytest.raises(error):
            run(state=state)
        assert int(read_tensors(state)["n_batches"]) == n_done
        assert int(read_tensors(state)["n_rows"]) == 40 * n_done
    found = run(state=state)
    assert len(calls) == 10 + 3
    assert same(found, expected)
    # A finished pass is only read.
    assert same(run(state=state), expected)
    assert len(calls) == 13
    assert [p.name for p in tmp_path.iterdir()] == ["impact.safetensors"]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"n_references": 3}, "n_references"),
        ({"n_top": 4}, "n_top"),
        ({"batch_size": 80}, "batch_size"),
        ({"n_rows": 50}, "samples"),
        ({"repeat_samples": True}, "repeat_samples"),
        ({"seed": 1}, "source_seed"),
    ],
)
def test_the_state_of_another_pass_is_refused(small, tmp_path, change, key):
    state = tmp_path / "impact.safetensors"
    passing(small)(state=state)
    before = state.read_bytes()
    with pytest.raises(ValueError, match=f"state: expected a file of the same measurement: {key}"):
        passing(small, **change)(state=state)
    assert state.read_bytes() == before


@pytest.mark.parametrize("part", ["encoder", "threshold", "data"])
def test_the_state_of_other_subnetworks_or_data_is_refused(small, tmp_path, part):
    state = tmp_path / "impact.safetensors"
    made = small("mlp")
    impact(made.decomposition, source_of(made), state=state, progress=False)
    dec = made.decomposition
    if part == "encoder":
        made = made.changed(encoder=dec.decoder)
    elif part == "threshold":
        made = made.changed(threshold=0.11)
    else:
        made = replace(made, data=made.data + 1)
    with pytest.raises(ValueError, match="state: expected a file of the same measurement"):
        impact(made.decomposition, source_of(made), state=state, progress=False)


def test_a_damaged_state_is_refused(small, tmp_path):
    state = tmp_path / "impact.safetensors"
    state.write_bytes(b"something else")
    with pytest.raises(ValueError, match="a whole safetensors file"):
        passing(small)(state=state)
    write_tensors(state, {"x": torch.zeros(1)})
    with pytest.raises(ValueError, match="the same measurement"):
        passing(small)(state=state)


# Wrong arguments


def test_wrong_arguments(small):
    made = small("tokens")
    every = source_of(made, "token", divergence="kl")
    run = lambda source=every, **more: impact(made.decomposition, source, progress=False, **more)  # noqa: E731
    with pytest.raises(ValueError, match="n_references: expected at least 1; got 0"):
        run(n_references=0)
    with pytest.raises(ValueError, match="n_top: expected at least 1; got 0"):
        run(n_top=0)
    with pytest.raises(ValueError, match="data: expected at least 2 rows; got 0"):
        run(n_rows=0)
    with pytest.raises(ValueError, match="rows='token'"):
        run(source_of(made, "sampled-token", divergence="kl"))
    other = small("tokens")
    with torch.no_grad():
        other.target.model[0].weight.add_(1)
    with pytest.raises(ValueError, match="other values"):
        run(source_of(other, "token", divergence="kl"))
