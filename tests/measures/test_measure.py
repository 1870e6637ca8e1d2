"""All measures from end to end: complete, clean, and the same after any interruption."""

import math
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from subscape import FixedOutput, Target, prepare
from subscape._io import read_tensors
from subscape.divergences import KL
from subscape.measures import MeasureConfig, Measures, quality
from subscape.measures import impact as impact_module
from subscape.measures import measure as measure_module
from subscape.measures.measure import measure
from subscape.measures.oracle import pca_fvu
from subscape.report.build import page_data
from subscape.report.page import render_page
from subscape.subnetworks.dictionary import Dictionary
from subscape.subnetworks.selection import GroupTopK

SHARES = -1, -1 / 2, -1 / 4, 0, 1 / 4, 1 / 2, 1
CONFIG = MeasureConfig(
    n_rows=100, n_references=2, n_top=4, n_others=36, n_outputs=3, n_deltas=3, batch_size=20
)
KINDS = {  # divergence, rows, threshold, and what is shown of a sample
    "mlp": ("mse", "sample", 0.1, "values"),
    "convolution": ("kl", "sample", 0.05, "image"),
    "llama": ("kl", "sampled-token", 0.02, "tokens"),
}


def make(small, kind, **changes):
    """A decomposition as `decompose` leaves it, in float32."""
    divergence, rows, threshold, _ = KINDS[kind]
    options = {"parameters": ["model.layers.1.*"]} if kind == "llama" else {}
    options |= {"n": 40, "dtype": torch.float32, "threshold": threshold}
    settings = {"divergence": divergence, "reference": "another-row", "rows": rows}
    return small(kind, settings=settings, **options | changes)


def run(made, out=None, **options):
    options = {"config": CONFIG, "out": out, "progress": False} | options
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="forward mode is not there")
        return measure(made.decomposition, made.target, made.data, **options)


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
    """Measured once for all tests: subnetworks of an MLP, their folder and what was found."""
    made, folder = make(small, "mlp"), tmp_path_factory.mktemp("whole")
    return made, folder, run(made, folder)


def doubled(model, batch):
    return 2 * model(batch)


@pytest.mark.parametrize("reference", ["uniform", FixedOutput(torch.zeros(3)), "another-row"])
def test_references_that_are_all_the_same_are_measured_once(small, reference):
    made = make(small, "mlp")
    one, more = (
        run(made, config=replace(CONFIG, n_references=n), reference=reference) for n in (1, 3)
    )
    if reference == "another-row":
        assert more.n_references == 3
        assert more[0].impact != one[0].impact
    else:
        assert more.settings.n_references == more.n_references == 1
        assert [entry.impact for entry in more] == [entry.impact for entry in one]


def test_groups_are_measured_direction_by_direction(small):
    # Two groups of two: both directions of one are active in the same rows.
    made = make(small, "mlp", k=4)
    one = made.decomposition
    like = one.decoder.weights
    selection = GroupTopK(1.0, torch.Size([4]), like, 2)
    selection.threshold.fill_(0.1)
    dictionary = Dictionary(one.encoder, one.decoder, selection).requires_grad_(False)
    grouped = replace(made, decomposition=replace(one, dictionary=dictionary))
    found = run(grouped)
    assert [entry.index for entry in found] == [0, 1, 2, 3]
    rates = [entry.active_rate for entry in found]
    assert rates[0] == rates[1]
    assert rates[2] == rates[3]
    assert float(found.coactivation.row(0)[1]) == 1
    assert found.quality.l0 == 1.0
    # Principal directions have as many coefficients a row.
    assert [base.l0 for base in found.quality.baselines] == [2.0, 2.0]
    page = page_data(grouped.decomposition, found, title="Groups")
    assert "Groups" in render_page(page)


def test_another_outputs_function_is_refused(small):
    # Its gradients would be others, and every figure with them.
    made = make(small, "mlp")
    target = Target(made.target.model, made.target.names, outputs=doubled)

    def measured(outputs):
        settings = made.decomposition.settings | {"outputs": outputs}
        decomposition = replace(made.decomposition, settings=settings)
        return measure(decomposition, target, made.data, config=CONFIG, progress=False)

    with pytest.raises(ValueError, match="made with, 'default_outputs'; got 'doubled'"):
        measured("default_outputs")
    assert measured("doubled").n_rows == 40


@pytest.mark.parametrize("kind", KINDS)
def test_the_record_is_complete_and_clean(small, kind, tmp_path):
    made = make(small, kind)
    labels = torch.arange(40) % 3 if kind == "convolution" else None
    names = {"output_names": lambda i: f"<out {i}>"}
    if kind == "llama":
        names["token_names"] = lambda i: f" t{i}"
    found = run(made, tmp_path / "m", labels=labels, **names)
    tokens = kind == "llama"
    assert found.n_rows == (100 if tokens else 40)
    assert found.unit == ("squared output" if kind == "mlp" else "nats")
    assert found.logits == (kind != "mlp")
    assert found.rows == ("token" if tokens else "sample")
    assert min(found.spread, found.quality.fvu) > 0
    assert 0 < found.quality.l0 <= 5
    fixed, chosen, *others = found.quality.baselines
    assert "best codes" not in fixed.name
    assert chosen.name == "5 principal directions, best codes"
    assert not others  # all rows were measured
    assert chosen.l0 == pytest.approx(found.quality.l0)
    assert all(0 <= of.fvu < 1 for of in (fixed, chosen))
    assert [entry.index for entry in found] == list(range(5))
    assert found.coactivation.others.shape == (5, 4)
    shares = torch.stack(list(made.decomposition.norms().values()), 1).square()
    for entry in found:
        assert entry.impact > 0
        assert 0 < entry.active_rate < 1
        assert 0 < entry.impact_normalised <= 1
        assert entry.tensors == pytest.approx(shares[entry.index].tolist(), rel=1e-4)
        top = entry.top_samples
        assert len({row.sample for row in top}) == len(top) == 4
        if tokens:  # elsewhere by their share of the gradient: see the tests of impact
            assert [r.impact for r in top] == sorted((r.impact for r in top), reverse=True)
        assert all(row.impact >= abs(row.signed) * (1 - 2e-6) for row in top)
        assert all((row.position is not None) == tokens for row in top)
        assert all(len(row.outputs.up) + len(row.outputs.down) > 0 for row in top)
        d, sweep = entry.delta, entry.sweep
        assert d > 0
        assert sweep.delta == pytest.approx([d * s for s in SHARES], rel=1e-5)
        assert all(abs(c[3]) < 1e-6 for c in (sweep.relevant, sweep.irrelevant, sweep.random))
        # Both ends of the sweep together are the share of the spread that was asked for.
        ends = (sweep.relevant[0] + sweep.relevant[-1]) / 2
        assert ends == pytest.approx(0.1 * found.spread, rel=0.11)
        assert 0 <= entry.selectivity.auroc <= 1
        assert 0 <= entry.selectivity.auroc_random <= 1
        assert entry.validity_radius <= d
        assert len(entry.partners) == 3
        assert entry.index not in [other for other, _ in entry.partners]
        assert all(index >= 0 for _, index in entry.partners)
        for output, _ in entry.top_outputs.up + entry.top_outputs.down:
            assert found.names.outputs[output] == f"<out {output}>"
    kept = found.samples["index"].tolist()
    assert kept == sorted({row.sample for entry in found for row in entry.top_samples})
    inputs = made.data["input_ids"] if tokens else made.data
    assert torch.equal(found.samples.get("input_ids", found.samples.get("inputs")), inputs[kept])
    if tokens:
        used = {int(i) for i in inputs[kept].unique()}
        assert found.names.tokens == {i: f" t{i}" for i in sorted(used)}
    if labels is not None:
        assert torch.equal(found.samples["labels"], labels[kept])
    loaded = Measures.load(tmp_path / "m")
    assert loaded.record == found.record
    page = page_data(made.decomposition, loaded, title="A title")
    assert all(KINDS[kind][-1] in shown for shown in page["samples"].values())
    assert "A title" in render_page(page)


def test_without_a_folder_nothing_is_written(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made, _, expected = whole
    assert run(made).record == expected.record
    assert list(tmp_path.iterdir()) == []


def test_the_settings_of_the_decomposition_can_be_overridden(whole):
    made, _, _ = whole
    found = run(made, divergence="half-reference-mse", reference="uniform")
    assert (found.divergence, found.reference) == ("half-reference-mse", "uniform")
    # It is not smallest at the own output, so changes are measured by the squared error.
    assert min(v for entry in found for v in entry.sweep.relevant) >= 0
    # A divergence of one's own says its unit.
    bits = replace(KL, name="bits", unit="bits", is_distance=False)
    found = run(made, divergence=bits)
    assert (found.divergence, found.unit, found.logits) == ("bits", "bits", True)
    assert found.unit_of_changes == "squared output"
    plain = run(made, divergence=lambda f, y: (f - y).abs().sum(1))
    assert plain.unit == plain.unit_of_changes == "an unknown unit"
    bare = run(replace(made, decomposition=replace(made.decomposition, settings={})))
    assert bare.divergence == "mse"
    assert 0 < bare.quality.l0 <= 5


def test_a_model_in_place_of_a_target_and_settings_by_keyword(whole):
    made, _, _ = whole
    expected = run(made, config=replace(CONFIG, n_top=2)).record
    model, options = made.target.model, {"config": CONFIG, "n_top": 2, "progress": False}
    assert measure(made.decomposition, model, made.data, **options).record == expected
    with pytest.raises(ValueError, match="n_tops: expected a setting.*Did you mean 'n_top'"):
        run(made, n_tops=2)
    plain = replace(made.decomposition, settings={"outputs": "default_outputs"})
    with pytest.raises(ValueError, match="outputs: expected the outputs function"):
        measure(plain, model, made.data, outputs=doubled, progress=False)


def test_one_alone_and_one_that_is_dead(small):
    found = run(make(small, "mlp", k=1))
    assert found[0].partners == ()
    assert found.coactivation.matrix().tolist() == [[1.0]]
    made = make(small, "mlp")
    weights = made.decomposition.encoder.weights.clone()
    weights[2] = 0
    made = made.changed(encoder=replace(made.decomposition.encoder, weights=weights))
    found = run(made)
    entry = found[2]
    assert entry.impact == entry.active_rate == 0
    assert entry.top_samples == ()
    assert (entry.delta, entry.sweep, entry.selectivity, entry.top_outputs) == (None,) * 4
    assert found.coactivation.values[2].isnan().all()
    render_page(page_data(made.decomposition, found, title="x"))


def test_batches_and_rows_of_the_quality_smaller_than_a_window(small, monkeypatch):
    monkeypatch.setattr(quality, "N_ROWS", 3)
    few = replace(CONFIG, n_rows=20, n_top=2, n_deltas=1, n_others=2, batch_size=2)
    found = run(make(small, "llama", k=2), config=few)
    assert found.n_rows == 20
    assert found.quality.n_rows >= 5


def test_the_targets_hash_is_made_once(small, tmp_path, monkeypatch):
    made, hashed = make(small, "mlp"), []
    right = Target._hash
    monkeypatch.setattr(Target, "_hash", lambda self: hashed.append(self) or right(self))
    run(replace(made, target=Target(made.target.model)), tmp_path / "m")
    assert len(hashed) == 1


def test_one_forward_serves_all_references(small, monkeypatch):
    """Preparing takes three forwards, and ten references of n batches n, not 10 n."""
    made, forwards = make(small, "mlp", n=120), []
    made.target.model.register_forward_pre_hook(lambda *_: forwards.append(1))
    settings = {"recipe": "published", "engine": "rule", "n_subnetworks": 5}
    source = prepare(made.target.model, made.data, **settings).source
    n_batches = len(impact_module.draws_of(source, torch.arange(len(source)), 1, 24, first=0))
    impact_module.impact(made.decomposition, source, n_references=10, batch_size=24, progress=False)
    assert n_batches <= len(forwards) <= 3 + n_batches


class Stop(KeyboardInterrupt):
    pass


def stop_at(monkeypatch, module, name, call):
    """The function of that name raises at its `call`-th call, and only then."""
    right, calls = getattr(module, name), []

    def stopping(*arguments, **options):
        calls.append(arguments)
        if len(calls) == call:
            raise Stop
        return right(*arguments, **options)

    monkeypatch.setattr(module, name, stopping)
    return calls


STAGES = [
    (impact_module, "coefficients_over_references", 1),
    (impact_module, "coefficients_over_references", 2),
    (measure_module, "coefficients_over_references", 1),
    (measure_module, "card", 1),
    (measure_module, "card", 4),
    (measure_module, "interaction", 3),
    (measure_module, "quality_of", 1),
    (Measures, "save", 1),
]


@pytest.mark.parametrize(("module", "name", "call"), STAGES)
def test_interrupted_at_any_stage_it_ends_the_same(
    whole, tmp_path, monkeypatch, module, name, call
):
    made, other, expected = whole
    folder = tmp_path / "stopped"
    calls = stop_at(monkeypatch, module, name, call)
    with pytest.raises(Stop):
        run(made, folder)
    assert not (folder / "measures.json").exists()
    found = run(made, folder)
    assert found.record == expected.record
    assert found.samples.keys() == expected.samples.keys()
    for key, values in expected.samples.items():
        assert torch.equal(found.samples[key], values)
    if name == "card":  # those measured before are kept
        assert len(calls) == 5 + 1
    for file in ("measures.json", "subnetworks.jsonl"):
        assert (folder / file).read_bytes() == (other / file).read_bytes()
    state, others = (read_tensors(f / "impact.safetensors") for f in (folder, other))
    assert all(torch.equal(values, others[key]) for key, values in state.items())


def reordered(made, side):
    stack = getattr(made.decomposition, side).select(torch.tensor([1, 0, 2, 3, 4]))
    return made.changed(**{side: stack})


OTHERS = {
    **{
        name: lambda made, c={name: value}: (made, {"config": replace(CONFIG, **c)})
        for name, value in dict(
            change=0.2, n_deltas=4, n_others=35, seed=1, n_references=3, n_partners=1
        ).items()
    },
    "data": lambda made: (replace(made, data=made.data * 2), {}),
    "reference": lambda made: (made, {"reference": "uniform"}),
    "encoder": lambda made: (reordered(made, "encoder"), {}),
    "decoder": lambda made: (reordered(made, "decoder"), {}),
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_another_measurement_in_the_same_folder_is_refused(whole, tmp_path, change):
    made, folder, _ = whole
    folder = Path(shutil.copytree(folder, tmp_path / "copy"))
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    other, options = change(made)
    with pytest.raises(ValueError, match=r"the same measurement|of another measurement"):
        run(other, folder, **options)
    assert before == {p.name: p.read_bytes() for p in folder.iterdir()}


OUT_OF_RANGE = dict(n_rows=[0], n_references=[0], n_top=[-1], n_others=[0], n_outputs=[0]) | dict(
    n_deltas=[1.5], batch_size=[0], n_partners=[-1], change=[0.0, math.inf, math.nan]
)


@pytest.mark.parametrize(("name", "values"), OUT_OF_RANGE.items())
def test_settings_out_of_range(name, values):
    for value in values:
        with pytest.raises(ValueError, match=f"{name}: expected"):
            with_unchecked(name, value)


def with_unchecked(name, value):
    """Past the shape checker of the tests, which users do not have."""
    made = object.__new__(MeasureConfig)
    for key, default in vars(MeasureConfig()).items():
        object.__setattr__(made, key, default)
    object.__setattr__(made, name, value)
    made.__post_init__()
    return made


def test_labels_of_another_length_and_another_model(small):
    made = make(small, "mlp")
    with pytest.raises(ValueError, match="labels: expected 40 of them; got 39"):
        run(made, labels=torch.zeros(39))
    with torch.no_grad():
        made.target.model[0].weight.add_(1)
    with pytest.raises(ValueError, match="same shapes, other values"):
        run(made)


@pytest.mark.parametrize("kind", ["mlp", "convolution", "llama"])
def test_baselines_are_those_of_the_dense_gradients(small, monkeypatch, kind):
    monkeypatch.setattr(quality, "N_ROWS", 80)
    made = make(small, kind, n=160 if kind != "llama" else 32, dtype=torch.float64)
    source = made.decomposition.source(made.target, made.data, seed=CONFIG.seed)
    found = quality.quality_of(made.decomposition, source, replace(CONFIG, batch_size=40))
    rows, other = (
        torch.cat([source.gradients(source.rows(i, 40)).flat for i in part])
        for part in ((0, 1), (2, 3))
    )
    l0, few = found.l0, max(1, round(found.l0))
    expected = [pca_fvu(rows, few), pca_fvu(rows, 5, l0), pca_fvu(rows, 5, l0, fit=other)]
    assert found.n_rows == 80
    assert [b.fvu for b in found.baselines] == pytest.approx(expected, rel=1e-5)
    assert expected[1] < expected[2] < 1
    assert [b.name for b in found.baselines][1:] == [
        "5 principal directions, best codes",
        "5 principal directions of 80 other rows, best codes",
    ]
