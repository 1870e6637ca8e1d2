"""Impact against a plain loop over rows and references, and a pass that stops and goes on."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from subscape import GradientSource, Target
from subscape._io import read_tensors, write_tensors
from subscape.data import take
from subscape.lowrank import Stack, make_layout
from subscape.measures import impact as impact_module
from subscape.measures.contexts import context_keys
from subscape.measures.impact import coefficients_over_references, draws_of, impact
from subscape.rows import permutation

TENSORS = ("mean", "signed", "normalised", "active_rate")


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
    parameters = {
        name: p.detach().clone().requires_grad_() for name, p in made.target.parameters.items()
    }
    samples, positions, gradients = [], [], []
    order = permutation(len(source), source.seed, 0)
    for draws in draws_of(source, order, n_references, batch_size, first=0):
        references = [source.reference(source.outputs_at(draw), draw) for draw in draws]
        for row, sample in enumerate(draws[0].samples.tolist()):
            position = 0 if draws[0].position is None else int(draws[0].position[row])
            samples.append(sample)
            positions.append(position)
            inputs = take(source.data, slice(sample, sample + 1))
            for draw, reference in zip(draws, references, strict=True):
                assert int(draw.samples[row]) == sample
                output = made.target.outputs(inputs, parameters)
                if draw.position is not None:
                    output = output[:, position]
                value = source.divergence(output, reference[row : row + 1]).sum()
                of_row = torch.autograd.grad(value, [*parameters.values()], materialize_grads=True)
                gradients.append(torch.cat([g.flatten() for g in of_row]))
    g = torch.stack(gradients).unflatten(0, (-1, n_references))
    return Plain(samples, positions, g @ v.T, g.norm(dim=-1))


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
    correlation = torch.corrcoef(flat.T)
    known = correlation.fill_diagonal_(1).float()
    torch.testing.assert_close(found.coactivation.matrix(), known, equal_nan=True)
    assert correlation.isfinite().sum() > len(correlation)
    by_share = source.kind == "sample"
    value = size / plain.norms.mean(1, keepdim=True) if by_share else size
    n_copies = 0
    for k, top in enumerate(found.top):
        rows = sorted(range(len(c)), key=lambda i: -float(value[i, k]))
        if not repeat:
            seen = set()
            rows = [i for i in rows if not (plain.samples[i] in seen or seen.add(plain.samples[i]))]
        distinct = {context(source, plain.samples[i], plain.positions[i]): i for i in rows[::-1]}
        n_copies += len(rows) - len(distinct)
        rows = [i for i in rows if i in distinct.values()][:n_top]
        assert top.rows.samples.tolist() == [plain.samples[i] for i in rows]
        if source.kind == "sample":
            assert top.rows.position is None
        else:
            assert top.rows.position.tolist() == [plain.positions[i] for i in rows]
        torch.testing.assert_close(top.impact, size[rows, k], **close)
        torch.testing.assert_close(top.signed, signed[rows, k], **close)
    assert (n_copies > 0) is (source.kind == "token")


def context(source, sample, position):
    """What a row has seen."""
    if source.kind == "sample":
        return sample
    ids = source.data if isinstance(source.data, torch.Tensor) else source.data["input_ids"]
    return tuple(ids[sample, : position + 1].tolist())


@pytest.mark.parametrize(
    ("kind", "rows", "divergence", "reference"),
    [
        ("mlp", "sample", "mse", "another-row"),
        ("mlp", "sample", "half-reference-mse", "uniform"),
        ("convolution", "sample", "mse", "another-row"),
        ("tokens", "token", "kl", "another-row"),
        ("llama", "token", "kl", "another-row"),
    ],
)
def test_impact_is_what_a_plain_loop_finds(small, kind, rows, divergence, reference):
    parameters = ["model.layers.1.*"] if kind == "llama" else "*"
    made = small(kind, n=17, parameters=parameters, threshold=0.05)
    source = source_of(made, rows, divergence=divergence, reference=reference, seed=4)
    options = {"n_references": 3, "batch_size": 9 * source.draws.per_sample}
    plain = by_loop(made, source, **options)
    for repeat in (False, True) if rows == "token" else (False,):
        options |= {"n_top": 4, "repeat_samples": repeat, "progress": False}
        found = impact(made.decomposition, source, **options)
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
    options = {"n_references": 2, "batch_size": 2, "progress": False}
    found = impact(made, source, n_top=2, rank_by="impact", **options)
    assert found.mean.tolist() == [10.5 / 4, 6 / 4]
    assert found.signed.tolist() == [10.5 / 4, 2 / 4]
    lengths = [math.sqrt(20), math.sqrt(68), 0.0, 0.5]
    assert found.normalised.tolist() == pytest.approx([10.5 / sum(lengths), 6 / sum(lengths)])
    # At or above 2: rows 0 and 1 for both.
    assert found.active_rate.tolist() == [0.5, 0.5]
    assert found.coactivation.matrix().tolist() == [[1, 1], [1, 1]]
    assert [t.rows.samples.tolist() for t in found.top] == [[1, 0], [0, 1]]
    assert [t.impact.tolist() for t in found.top] == [[8, 2], [4, 2]]
    assert [t.signed.tolist() for t in found.top] == [[8, 2], [4, -2]]
    # Over the lengths √20, √68, 0 and ½ the shares are (.45, .97, –, 1) and (.89, .24, –, 0).
    found = impact(made, source, n_top=2, **options)
    assert [t.rows.samples.tolist() for t in found.top] == [[3, 1], [0, 1]]
    assert [t.impact.tolist() for t in found.top] == [[0.5, 8], [4, 2]]


def test_rows_without_impact_are_no_top_rows(make_decomposition):
    made, source = by_hand(make_decomposition)
    options = {"n_references": 1, "n_top": 50, "batch_size": 3, "progress": False}
    found = impact(made, source, **options)
    assert found.top[0].rows.samples.tolist() == [3, 1, 0]
    assert found.top[1].rows.samples.tolist() == [0, 1]
    silent = made.encoder.scaled(torch.tensor([1.0, 0.0]).double())
    nothing = make_decomposition(silent, silent, 2.0, made.target, {})
    empty = impact(nothing, source, **options).top[1]
    assert len(empty.rows) == 0
    assert empty.impact.numel() == 0


def test_coactivation_of_one_that_is_always_active_is_nan(small):
    """Even where 1/n_references is no binary fraction: pairs are counted, not shares added up."""
    made = small("mlp", n=49, threshold=0.0)
    options = {"n_references": 3, "batch_size": 7, "progress": False}
    found = impact(made.decomposition, source_of(made), **options)
    assert found.active_rate.tolist() == [1.0] * 5
    assert found.coactivation.values.isnan().all()


@pytest.mark.parametrize("kind", ["mlp", "convolution"])
def test_the_size_of_batches_does_not_matter(small, kind):
    made = small(kind, n=23)
    options = {"n_references": 2, "n_top": 9, "progress": False}
    one, other = (
        impact(made.decomposition, source_of(made), batch_size=b, **options) for b in (4, 60)
    )
    close = {"rtol": 1e-12, "atol": 1e-15}
    for name in TENSORS:
        torch.testing.assert_close(getattr(one, name), getattr(other, name), **close)
    for a, b in zip(one.top, other.top, strict=True):
        assert a.rows.samples.tolist() == b.rows.samples.tolist()
        torch.testing.assert_close(a.impact, b.impact, **close)


@pytest.mark.parametrize("batch_size", [2, 10, 100, 1000])
def test_of_copies_the_one_seen_first_is_kept(make_decomposition, batch_size):
    made, source = by_hand(make_decomposition)
    data = torch.tensor([[1.0, 2.0], [1.0, 3.0]], dtype=torch.float64).repeat(150, 1)
    source = GradientSource(source.target, data, reference="uniform", seed=3)
    found = impact(made, source, n_references=1, batch_size=batch_size, progress=False)
    order = permutation(300, 3, 0)
    first = {kind: int(order[order % 2 == kind][0]) for kind in (0, 1)}
    # Gradients 2 (1, 2) and 2 (1, 3): the first has more of x₁, the second of x₂.
    assert found.top[0].rows.samples.tolist() == [first[0], first[1]]
    assert found.top[1].rows.samples.tolist() == [first[1], first[0]]


def test_contexts_are_tokens_up_to_a_position_or_whole_samples():
    ids = torch.tensor([[1, 2, 3], [1, 2, 4], [5, 2, 3]])
    for data in (ids, {"input_ids": ids, "mask": torch.ones(3, 3)}):
        first, second, third = context_keys(data, 3).view(3, 3).tolist()
        assert first[:2] == second[:2]
        assert len({*first, *second, *third}) == 7
    images = torch.tensor([[[0.0, 1.0]], [[0.0, 1.0]], [[1.0, 0.0]]])
    one, same, other = context_keys(images, None).tolist()
    assert one == same != other
    rows = context_keys(images, 2).view(3, 2).tolist()  # positions of one that is no text
    assert rows[0] == rows[1]
    assert len({*rows[0], *rows[2]}) == 4


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


class Stop(Exception):
    pass


def same(a, b):
    def tensors(of):
        yield from (getattr(of, name) for name in TENSORS)
        for top in of.top:
            yield from (top.rows.samples, top.rows.position, top.impact, top.signed)

    counts = (a.n_rows, a.n_references) == (b.n_rows, b.n_references)
    return counts and all(map(torch.equal, tensors(a), tensors(b)))


def passing(small, **options):
    # Groups of 8 samples with 5 positions each are never cut.
    made = small("tokens", n=80, dtype=torch.float32)
    source = source_of(made, "token", divergence="kl", seed=options.pop("seed", 0))
    settings = {"n_references": 2, "n_top": 3, "batch_size": 40, "progress": False} | options
    return lambda **more: impact(made.decomposition, source, **settings, **more)


@pytest.mark.parametrize(
    ("error", "save_every"),
    [(Stop, 1), (KeyboardInterrupt, 4), (Stop, 20), (KeyboardInterrupt, 20)],
)
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


CHANGES = {
    "n_references": {"n_references": 3},
    "n_top": {"n_top": 4},
    "batch_size": {"batch_size": 80},
    "samples": {"n_rows": 50},
    "repeat_samples": {"repeat_samples": True},
    "rank_by": {"rank_by": "share"},
    "source_seed": {"seed": 1},
}


def test_the_state_of_another_pass_is_refused(small, tmp_path):
    state = tmp_path / "impact.safetensors"
    passing(small)(state=state)
    before = state.read_bytes()
    same = "state: expected a file of the same measurement"
    for key, change in CHANGES.items():
        with pytest.raises(ValueError, match=f"{same}: {key}"):
            passing(small, **change)(state=state)
    assert state.read_bytes() == before
    # Nor one of other subnetworks or data, nor a damaged file.
    made = small("mlp")
    state = tmp_path / "mlp.safetensors"
    impact(made.decomposition, source_of(made), state=state, progress=False)
    for other in (
        made.changed(encoder=made.decomposition.decoder),
        made.changed(threshold=0.11),
        replace(made, data=made.data + 1),
    ):
        with pytest.raises(ValueError, match=same):
            impact(other.decomposition, source_of(other), state=state, progress=False)
    write_tensors(state, {"x": torch.zeros(1)})
    with pytest.raises(ValueError, match=same):
        passing(small)(state=state)
    state.write_bytes(b"something else")
    with pytest.raises(ValueError, match="a whole safetensors file"):
        passing(small)(state=state)


def test_wrong_arguments(small):
    made, other = small("tokens"), small("tokens")
    with torch.no_grad():
        other.target.model[0].weight.add_(1)
    every = source_of(made, "token", divergence="kl")
    for message, source, options in (
        ("n_references: expected at least 1; got 0", every, {"n_references": 0}),
        ("n_top: expected at least 1; got 0", every, {"n_top": 0}),
        ("data: expected at least 2 rows; got 0", every, {"n_rows": 0}),
        ("rows='token'", source_of(made, "sampled-token", divergence="kl"), {}),
        ("other values", source_of(other, "token", divergence="kl"), {}),
    ):
        with pytest.raises(ValueError, match=message):
            impact(made.decomposition, source, progress=False, **options)


def test_no_more_rows_are_listed_than_fit(small, monkeypatch):
    """Co-activation is then of the rows that came first, and all else is of all."""
    made = small("mlp", n=23)
    options = {"n_references": 1, "progress": False}
    whole = impact(made.decomposition, source_of(made), batch_size=23, **options)
    monkeypatch.setattr(impact_module, "LISTED", 1)
    short = impact(made.decomposition, source_of(made), batch_size=8, **options)
    source = source_of(made)
    first, *_ = draws_of(source, permutation(len(source), source.seed, 0), 1, 8, first=0)
    found, _ = coefficients_over_references(source, first, made.decomposition.encoder)
    active = made.decomposition.dictionary.selection.alone(found[0]).double()
    assert 8 <= len(active) < len(source)
    torch.testing.assert_close(short.active_rate, whole.active_rate, rtol=1e-12, atol=0)
    known = torch.corrcoef(active.mT).fill_diagonal_(1).float()
    torch.testing.assert_close(short.coactivation.matrix(), known, equal_nan=True)
    assert not torch.equal(known.nan_to_num(), whole.coactivation.matrix().nan_to_num())
