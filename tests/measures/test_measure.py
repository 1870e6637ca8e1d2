"""All measures from end to end: complete, clean, and the same after any interruption."""

import json
import math
import sys
import warnings
from dataclasses import replace

import pytest
import torch

from subscape import Target
from subscape._io import read_tensors
from subscape.measures import MeasureConfig, Measures, measure
from subscape.measures import measure as measure_function
from subscape.report.build import page_data
from subscape.report.page import render_page

measure_module = sys.modules[measure_function.__module__]
impact_module = sys.modules["subscape.measures.impact"]

CONFIG = MeasureConfig(
    n_rows=100, n_references=2, n_top=4, n_others=36, n_outputs=3, n_deltas=3, batch_size=20
)
SETTINGS = {
    "mlp": {"divergence": "mse", "reference": "another-row", "rows": "sample"},
    "convolution": {"divergence": "kl", "reference": "another-row", "rows": "sample"},
    "llama": {"divergence": "kl", "reference": "another-row", "rows": "token"},
}
THRESHOLDS = {"mlp": 0.1, "convolution": 0.05, "llama": 0.02}
KINDS = {"mlp": "vectors", "convolution": "images", "llama": "tokens"}


def make(small, kind: str, **changes):
    """A decomposition as `decompose` leaves it, in float32."""
    options = {"parameters": ["model.layers.1.*"]} if kind == "llama" else {}
    settings = SETTINGS[kind] | {"active_fraction": 0.4}
    return small(
        kind,
        n=40,
        dtype=torch.float32,
        threshold=THRESHOLDS[kind],
        settings=settings,
        **options | changes,
    )


def run(made, folder=None, **options):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="forward mode is not there")
        return measure(
            made.decomposition,
            made.target,
            made.data,
            folder=folder,
            progress=False,
            **{"config": CONFIG} | options,
        )


def doubled(model, batch):
    return 2 * model(batch)


def test_another_outputs_function_is_refused(small):
    # Its gradients would be others, and every figure with them.
    made = make(small, "mlp")
    target = Target(made.target.model, made.target.names, outputs=doubled)

    def measured(outputs: str) -> Measures:
        settings = made.decomposition.settings | {"outputs": outputs}
        decomposition = replace(made.decomposition, settings=settings)
        return measure(decomposition, target, made.data, config=CONFIG, progress=False)

    with pytest.raises(ValueError, match="made with, 'default_outputs'; got 'doubled'"):
        measured("default_outputs")
    assert measured("doubled").record["n_rows"] == 40


@pytest.mark.parametrize("kind", list(SETTINGS))
def test_the_record_is_complete_and_clean(small, kind: str, tmp_path):
    made = make(small, kind)
    labels = torch.arange(40) % 3 if kind == "convolution" else None
    names = {"output_names": lambda i: f"<out {i}>"}
    if kind == "llama":
        names["token_names"] = lambda i: f" t{i}"
    found = run(made, tmp_path / "m", labels=labels, **names)
    record = found.record
    json.dumps(record, allow_nan=False)
    per_sample = 5 if kind == "llama" else 1
    assert record["format"] == "subscape-measures/1"
    assert record["n_rows"] == (100 if kind == "llama" else 40)
    assert record["unit"] == ("divergence" if kind == "mlp" else "nats")
    assert record["settings"]["rows"] == ("every-token" if kind == "llama" else "sample")
    assert record["spread"] > 0
    assert 0 < record["quality"]["l0"] <= 5
    assert record["quality"]["fvu"] > 0
    fixed, chosen, *others = record["quality"]["baselines"]
    assert "best codes" not in fixed["name"]
    assert chosen["name"] == "5 principal directions, best codes"
    assert not others  # all rows were measured
    assert chosen["l0"] == pytest.approx(record["quality"]["l0"])
    assert 0 <= fixed["fvu"] < 1
    assert 0 <= chosen["fvu"] < 1
    assert [e["index"] for e in record["subnetworks"]] == list(range(5))
    assert [len(row) for row in record["coactivation"]] == [5] * 5
    for entry in record["subnetworks"]:
        assert entry["impact"] > 0
        assert 0 < entry["active_rate"] < 1
        assert 0 < entry["impact_normalised"] <= 1
        top = entry["top_samples"]
        assert len({row["sample"] for row in top}) == len(top) == 4
        assert [r["impact"] for r in top] == sorted((r["impact"] for r in top), reverse=True)
        assert all(row["impact"] >= abs(row["signed"]) * (1 - 1e-6) for row in top)
        assert all(("position" in row) == (per_sample > 1) for row in top)
        assert all(len(row["up"]) + len(row["down"]) > 0 for row in top)
        assert entry["delta"] > 0
        sweep = entry["sweep"]
        d = entry["delta"]
        assert sweep["delta"] == [-d, -d / 2, -d / 4, 0, d / 4, d / 2, d]
        assert all(abs(sweep[c][3]) < 1e-6 for c in ("relevant", "irrelevant", "random"))
        # Both ends of the sweep together are the share of the spread that was asked for.
        ends = (sweep["relevant"][0] + sweep["relevant"][-1]) / 2
        assert ends == pytest.approx(0.1 * record["spread"], rel=0.11)
        assert 0 <= entry["selectivity"]["auroc"] <= 1
        assert 0 <= entry["selectivity"]["auroc_random"] <= 1
        assert entry["validity_radius"] <= d
        assert len(entry["partners"]) == 3
        assert entry["index"] not in [other for other, _ in entry["partners"]]
        assert all(index >= 0 for _, index in entry["partners"])
    assert set(record["names"]["outputs"].values()) <= {f"<out {i}>" for i in range(11)}
    for entry in record["subnetworks"]:
        for i, _ in entry["top_outputs"]["up"] + entry["top_outputs"]["down"]:
            assert record["names"]["outputs"][str(i)] == f"<out {i}>"
    kept = found.samples["index"].tolist()
    assert kept == sorted({r["sample"] for e in record["subnetworks"] for r in e["top_samples"]})
    inputs = made.data["input_ids"] if kind == "llama" else made.data
    assert torch.equal(found.samples.get("input_ids", found.samples.get("inputs")), inputs[kept])
    if kind == "llama":
        used = {int(i) for i in inputs[kept].unique()}
        assert record["names"]["tokens"] == {str(i): f" t{i}" for i in sorted(used)}
    if labels is not None:
        assert torch.equal(found.samples["labels"], labels[kept])
    loaded = Measures.load(tmp_path / "m")
    assert loaded.record == record
    page = page_data(made.decomposition, loaded, title="A title")
    assert page["kind"] == KINDS[kind]
    assert "A title" in render_page(page)


def test_without_a_folder_nothing_is_written(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = make(small, "mlp")
    record = run(made).record
    assert list(tmp_path.iterdir()) == []
    assert record == run(made, tmp_path / "m").record


def test_the_settings_of_the_decomposition_can_be_overridden(small):
    made = make(small, "mlp")
    found = run(made, divergence="half-reference-mse", reference="uniform").record
    assert found["settings"]["divergence"] == "half_reference_mse"
    assert found["settings"]["reference"] == "uniform"
    # It is not smallest at the own output, so changes are measured by the squared error.
    assert min(v for e in found["subnetworks"] for v in e["sweep"]["relevant"]) >= 0


def test_a_decomposition_without_settings(small):
    made = make(small, "mlp")
    made = replace(made, decomposition=replace(made.decomposition, settings={}))
    record = run(made).record
    assert record["settings"]["divergence"] == "mse"
    assert 0 < record["quality"]["l0"] <= 5


def test_one_subnetwork_has_no_partner(small):
    record = run(make(small, "mlp", k=1)).record
    assert record["subnetworks"][0]["partners"] == []
    assert record["coactivation"] == [[1.0]]


def test_one_that_is_dead(small):
    made = make(small, "mlp")
    weights = made.decomposition.encoder.weights.clone()
    weights[2] = 0
    encoder = replace(made.decomposition.encoder, weights=weights)
    made = replace(made, decomposition=replace(made.decomposition, encoder=encoder))
    found = run(made)
    entry = found.record["subnetworks"][2]
    assert entry["impact"] == entry["active_rate"] == 0
    assert entry["top_samples"] == []
    assert entry["delta"] is None
    assert not {"sweep", "selectivity", "top_outputs"} & entry.keys()
    assert found.record["coactivation"][2] == [None] * 5
    render_page(page_data(made.decomposition, found, title="x"))


def test_windows_longer_than_the_rows_of_the_quality(small, monkeypatch):
    monkeypatch.setattr(measure_module, "N_QUALITY_ROWS", 3)
    made = make(small, "llama", k=2)
    few = replace(CONFIG, n_rows=20, n_top=2, n_deltas=1)
    assert run(made, config=few).record["quality"]["n_rows"] >= 5


def test_batches_smaller_than_a_window(small):
    made = make(small, "llama", k=2)
    few = replace(CONFIG, n_rows=20, n_top=2, n_deltas=1, n_others=2, batch_size=2)
    assert run(made, config=few).record["n_rows"] == 20


# Interrupted


class Stop(KeyboardInterrupt):
    pass


def stop_at(monkeypatch, module, name: str, call: int) -> list:
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
    (measure_module, "_quality", 1),
    (Measures, "save", 1),
]


@pytest.mark.parametrize(("module", "name", "call"), STAGES)
def test_interrupted_at_any_stage_it_ends_the_same(
    small, tmp_path, monkeypatch, module, name, call
):
    made = make(small, "mlp")
    expected = run(made, tmp_path / "whole")
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
        assert (folder / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    state, other = (read_tensors(f / "impact.safetensors") for f in (folder, tmp_path / "whole"))
    assert all(torch.equal(values, other[key]) for key, values in state.items())


@pytest.mark.parametrize("keep", [0.1, 0.55, 0.9])
def test_a_line_cut_short_is_measured_again(small, tmp_path, keep: float):
    made = make(small, "mlp")
    expected = run(made, tmp_path / "m")
    lines = tmp_path / "m" / "subnetworks.jsonl"
    whole = lines.read_bytes()
    header = whole.index(b"\n") + 1
    for size in (int(keep * len(whole)), int(keep * header)):
        lines.write_bytes(whole[:size])
        (tmp_path / "m" / "measures.json").unlink()
        assert run(made, tmp_path / "m").record == expected.record
        assert lines.read_bytes() == whole


@pytest.mark.parametrize(
    "change",
    [
        {"change": 0.2},
        {"n_deltas": 4},
        {"n_others": 35},
        {"seed": 1},
        {"n_references": 3},
        {"n_partners": 1},
    ],
)
def test_other_settings_in_the_same_folder_are_refused(small, tmp_path, change):
    made = make(small, "mlp")
    run(made, tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=r"the same measurement|of another measurement"):
        run(made, tmp_path, config=replace(CONFIG, **change))
    assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir()}


@pytest.mark.parametrize("part", ["data", "encoder", "decoder", "reference"])
def test_another_measurement_in_the_same_folder_is_refused(small, tmp_path, part: str):
    made = make(small, "mlp")
    run(made, tmp_path)
    options, dec = {}, made.decomposition
    if part == "data":
        made = replace(made, data=made.data * 2)
    elif part == "reference":
        options = {"reference": "uniform"}
    else:
        other = getattr(dec, part).select(torch.tensor([1, 0, 2, 3, 4]))
        made = replace(made, decomposition=replace(dec, **{part: other}))
    with pytest.raises(ValueError, match=r"the same measurement|of another measurement"):
        run(made, tmp_path, **options)


# Wrong arguments


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_rows", 0),
        ("n_references", 0),
        ("n_top", -1),
        ("n_others", 0),
        ("n_outputs", 0),
        ("n_deltas", 1.5),
        ("batch_size", 0),
        ("n_partners", -1),
        ("change", 0.0),
        ("change", math.inf),
        ("change", math.nan),
    ],
)
def test_settings_out_of_range(name: str, value):
    with pytest.raises(ValueError, match=f"{name}: expected"):
        with_unchecked(name, value)


def with_unchecked(name: str, value) -> MeasureConfig:
    """Past the shape checker of the tests, which users do not have."""
    made = object.__new__(MeasureConfig)
    for key, default in vars(MeasureConfig()).items():
        object.__setattr__(made, key, default)
    object.__setattr__(made, name, value)
    made.__post_init__()
    return made


def test_labels_of_another_length(small):
    with pytest.raises(ValueError, match="labels: expected 40 of them; got 39"):
        run(make(small, "mlp"), labels=torch.zeros(39))


def test_another_model(small):
    made = make(small, "mlp")
    with torch.no_grad():
        made.target.model[0].weight.add_(1)
    with pytest.raises(ValueError, match="same shapes, other values"):
        run(made)


def test_a_baseline_of_other_rows_where_there_are_any(small, monkeypatch):
    monkeypatch.setattr(measure_module, "N_QUALITY_ROWS", 20)
    quality = run(make(small, "mlp"), config=replace(CONFIG, batch_size=10)).record["quality"]
    assert quality["n_rows"] == 20
    assert [b["name"] for b in quality["baselines"]][1:] == [
        "5 principal directions, best codes",
        "5 principal directions of 20 other rows, best codes",
    ]
    assert quality["baselines"][1]["fvu"] < quality["baselines"][2]["fvu"] < 1
