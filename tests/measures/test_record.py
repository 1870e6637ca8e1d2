"""The record in Python and as a file: short to look at, exact to save, and refused by the field that is wrong."""

import json
import math
import re
from dataclasses import replace

import pytest
import torch

from subscape._io import write_tensors
from subscape.measures import MeasureConfig, Measures, RowSet, Selectivity, SubnetworkMeasures
from subscape.measures.kept import names_of, samples_of, token_ids
from subscape.measures.record import (
    Baseline,
    Names,
    OutputEffect,
    Partner,
    Quality,
    SweepMeans,
    TopOutputs,
    TopSample,
    number,
)
from subscape.subnetworks.neighbours import Neighbours


def entry_of(k, auroc=None, **more):
    more["selectivity"] = None if auroc is None else Selectivity(0.5, None, *auroc)
    impacts = dict(impact=2.0, impact_signed=-2.0, impact_normalised=None)
    return SubnetworkMeasures(index=k, **impacts, active_rate=0.25, tensors=(0.75, 0.25), **more)


def measures_of(*entries):
    made = dict(subscape_version="0", target="abc", decomposition="abc def")
    said = dict(divergence="kl", unit="nats", unit_of_changes="nats", logits=True)
    rows = dict(rows="token", n_rows=1200, reference="another-row", n_references=3, spread=None)
    return Measures(
        format="subscape-measures/2",
        **made,
        **said,
        **rows,
        settings=MeasureConfig(n_top=2),
        quality=Quality(0.25, 1.5, 100, (Baseline("2 principal directions", 2.0, 0.5),)),
        names=Names({3: "three"}, {7: " a"}),
        subnetworks=entries,
        coactivation=Neighbours(torch.tensor([[1], [0]]), torch.tensor([[math.nan], [0.5]])),
        samples={"index": torch.tensor([4, 1]), "inputs": torch.zeros(2, 3)},
    )


FULL = entry_of(
    0,
    (0.9, 0.5),
    top_samples=(
        TopSample(4, 2, 0.5, -0.5, TopOutputs((OutputEffect(3, 1.0),), (OutputEffect(0, -2.0),))),
        TopSample(1, 0, 0.25, 0.25),
    ),
    top_outputs=TopOutputs(up=(OutputEffect(3, 1.5),)),
    delta=0.5,
    sweep=SweepMeans((-0.5, 0.0), (2.0, None), (0.0, 0.0), (1.0, 0.0)),
    partners=(Partner(1, 0.125),),
)


def test_they_are_a_sequence():
    made = measures_of(FULL, entry_of(1))
    assert len(made) == 2
    assert [entry.index for entry in made] == [0, 1]
    assert made[0].top_outputs.up[0].output == 3
    assert made[0].selectivity.auroc == 0.9
    assert made[-1].partners == ()
    assert (made.names.output(3), made.names.output(4)) == ("three", "output 4")
    assert (made.names.token(7), made.names.token(8)) == (" a", "8")


def test_they_are_short_to_look_at():
    entries = [entry_of(k, a) for k, a in enumerate([(0.9, 0.5), (0.7, 0.4), (None, 0.1), None])]
    made = measures_of(*entries)
    assert repr(made) == "Measures(4 subnetworks over 1,200 rows)"
    assert repr(made[1]) == ("SubnetworkMeasures(1: active in 25.0% of rows, impact 2, AUROC 0.70)")
    assert str(made).splitlines() == [
        "4 subnetworks over 1,200 rows, 3 references each",
        "FVU 0.250 at L0 1.50",
        "2 principal directions: FVU 0.500 at L0 2.00",
        "selectivity AUROC 0.80, of random directions 0.45 (means over 2 subnetworks)",
    ]
    assert "AUROC" not in str(measures_of(entry_of(0)))
    assert number(0.123456789) == 0.123457
    assert number(1234567.0) == 1234570
    assert [number(x) for x in (math.nan, math.inf, -math.inf)] == [None] * 3


def test_a_notebook_shows_the_strongest_and_no_markup_of_names():
    named = TopOutputs(up=(OutputEffect(3, 1.0),))
    entries = [replace(entry_of(k, top_outputs=named), impact=k + 1.0) for k in range(30)]
    html = replace(measures_of(*entries), names=Names({3: "<b>"}, {}))._repr_html_()
    assert html.count("<tr>") == 11
    assert html.index("<td>29</td>") < html.index("<td>28</td>")
    assert "&lt;b&gt;" in html
    assert "<b>" not in html


@pytest.mark.parametrize(
    ("relevant", "irrelevant", "side"),
    [
        ((0.8, 0.0, 0.02), (0.1, 0.0, 0.2), -1),  # saturated at +δ: 8 against 0.1
        ((0.2, 0.0, 0.4), (0.1, 0.0, 0.1), 1),
        ((None, 0.0, 0.1), (0.1, 0.0, 0.2), 1),
        ((0.1, 0.0, None), (0.1, 0.0, 0.2), -1),
        ((0.1, 0.0, 0.5), (0.0, 0.0, 0.5), -1),  # the others do not move at −δ
        ((0.1, 0.0, 0.5), (None, None, None), 1),  # there are none
    ],
)
def test_the_side_at_which_its_own_rows_move_most(relevant, irrelevant, side):
    entry = entry_of(0, sweep=SweepMeans((-1.0, 0.0, 1.0), relevant, irrelevant, (0.0,) * 3))
    assert entry.side == side
    assert entry_of(0).side == 1


def test_dead_ones_and_first_order_only_stay_out_of_means():
    full = entry_of(0, (0.9, 0.5), validity_radius=0.1)
    first = replace(
        full, index=1, selectivity=Selectivity(0.5, None, 0.1, 0.1), validity_radius=0.0
    )
    dead = replace(first, index=2, validity_radius=0.1, active_rate=1e-4)
    assert [k.standing for k in (full, first, dead)] == ["", "first order only", "dead"]
    assert str(measures_of(full, first, dead)).splitlines()[-3:] == [
        "selectivity AUROC 0.90, of random directions 0.50 (means over 1 subnetworks)",
        "1 first order only, left out of means and last in lists",
        "1 dead, left out of means and last in lists",
    ]


def test_saved_and_loaded(tmp_path):
    made = measures_of(FULL, entry_of(1))
    made.save(tmp_path)
    loaded = Measures.load(tmp_path)
    assert loaded.record == made.record
    assert loaded.coactivation.others.tolist() == [[1], [0]]
    assert str(loaded.coactivation.values.tolist()) == "[[nan], [0.5]]"
    assert loaded.samples.keys() == {"index", "inputs"}
    assert torch.equal(loaded.samples["index"], made.samples["index"])
    assert {p.name for p in tmp_path.iterdir()} == {"measures.json", "measures.safetensors"}
    # The file says the same as the record.
    record = json.loads((tmp_path / "measures.json").read_text())
    entry = record["subnetworks"][0]
    sizes = {"sample": 4, "position": 2, "impact": 0.5, "signed": -0.5}
    moved = {"up": [[3, 1.0]], "down": [[0, -2.0]]}
    assert entry["top_samples"][0] == sizes | {"outputs": moved}
    assert entry["sweep"]["relevant"] == [2.0, None]
    assert entry["partners"] == [[1, 0.125]]
    assert record["subnetworks"][1]["sweep"] is None
    assert record["names"] == {"outputs": {"3": "three"}, "tokens": {"7": " a"}}
    assert record["settings"]["n_top"] == 2


def test_a_file_of_before_has_the_matrix_of_all_pairs(tmp_path):
    measures_of(FULL, entry_of(1)).save(tmp_path)
    matrix = torch.tensor([[1.0, 0.25], [0.25, 1.0]])
    tensors = {"coactivation": matrix, "samples.index": torch.tensor([4])}
    write_tensors(tmp_path / "measures.safetensors", tensors)
    assert torch.equal(Measures.load(tmp_path).coactivation.matrix(), matrix)


DAMAGED = {
    "subnetworks[1].impact": ("high", "Expected `float`, got `str`"),
    "subnetworks[0].impact": (-1.0, "`float` >= 0.0"),
    "subnetworks[0].active_rate": (1.5, "`float` <= 1.0"),
    "subnetworks[1].index": (2, "subnetworks[1].index: expected 1; got 2"),
    "subnetworks[0].partners": ([[2, 0.5]], "expected indices below 2; got [2]"),
    "subnetworks[0].sweep.random": ([0.5], "random: expected 2 numbers, one a δ; got 1"),
    "subnetworks[0].sweep.delta[1]": (None, "Expected `float`, got `null`"),
    "subnetworks[0].top_samples[0].sample": (1.5, "Expected `int`, got `float`"),
    "subnetworks[0].top_outputs.up[0]": ([3], "Expected `array`"),
    "subnetworks": ({}, "Expected `array`, got `object`"),
    "quality": (None, "Expected `object`, got `null`"),
    "quality.fvu": (True, "Expected `float`, got `bool`"),
    "settings.n_top": (0, "n_top: expected a whole number of at least 1; got 0"),
    "names.tokens": ({"x": "y"}, "Expected `int`, got `str`"),
    "rows": ("word", "Invalid enum value 'word'"),
}


ABSENT = object()
NEEDED = [path for path in DAMAGED if not re.search(r"\]$|partners$|n_top$", path)]


def refused(folder, path, value):
    """What is said of measures with one entry replaced or, for ABSENT, taken out."""
    measures_of(FULL, entry_of(1)).save(folder)
    file = folder / "measures.json"
    record = place = json.loads(file.read_text())
    *steps, last = [int(s) if s.isdigit() else s for s in re.findall(r"\w+", path)]
    for step in steps:
        place = place[step]
    if value is ABSENT:
        del place[last]
    else:
        place[last] = value
    file.write_text(json.dumps(record))
    with pytest.raises(ValueError) as caught:
        Measures.load(folder)
    message = str(caught.value)
    assert message.startswith(str(file))
    assert "\n" not in message
    assert "Measure again: subscape measure RUN --overwrite." in message
    return message


@pytest.mark.parametrize("path", DAMAGED)
def test_a_damaged_file_is_refused_by_the_field(tmp_path, path):
    value, words = DAMAGED[path]
    message = refused(tmp_path, path, value)
    assert words in message
    assert "expected " in words or f"`$.{path.split('[')[0]}" in message


@pytest.mark.parametrize("path", NEEDED)
def test_a_field_that_is_not_there_is_named(tmp_path, path):
    last = re.findall(r"\w+", path)[-1]
    assert f"missing required field `{last}`" in refused(tmp_path, path, ABSENT)


OTHERS = {
    '{"format": "subscape-measures/1"}': "format subscape-measures/2; got subscape-measures/1.",
    '{"format": "subscape-measures/3"}': "got subscape-measures/3",
    "{}": "got none",
    "[1]": "Expected `object`",
    "{": "expected a JSON file",
    "\x00": "expected a JSON file",
}


def test_another_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="Measure first: subscape measure RUN"):
        Measures.load(tmp_path)
    for text, words in OTHERS.items():
        (tmp_path / "measures.json").write_text(text)
        with pytest.raises(ValueError) as caught:
            Measures.load(tmp_path)
        assert words in str(caught.value)
        assert "subscape measure RUN --overwrite" in str(caught.value)
    # Tensors that are not there.
    measures_of(FULL, entry_of(1)).save(tmp_path)
    write_tensors(tmp_path / "measures.safetensors", {"coactivation": torch.eye(2)})
    with pytest.raises(ValueError, match=r"measures.safetensors: expected .* samples.index"):
        Measures.load(tmp_path)


def test_token_ids_are_whole_numbers_in_two_axes():
    ids = torch.zeros(3, 4, dtype=torch.long)
    assert token_ids(ids) is ids
    assert token_ids({"input_ids": ids, "attention_mask": ids + 1}) is ids
    assert token_ids({"pixel_values": ids.float()}) is None
    for other in (ids.float(), ids[0], ids[None]):
        assert token_ids(other) is None


def test_names_of_what_the_measures_speak_of():
    """Tokens of the windows of top samples, outputs of all rows and of the mean."""
    ids = torch.arange(12).view(6, 2)
    names = names_of([FULL], {"input_ids": ids}, lambda i: f"t{i}", lambda i: f"o{i}\ud800")
    # Samples 4 and 1 hold the tokens 8, 9 and 2, 3; what is no text becomes a question mark.
    assert names.tokens == {2: "t2", 3: "t3", 8: "t8", 9: "t9"}
    assert names.outputs == {0: "o0?", 3: "o3?"}
    assert names_of([FULL], ids.float(), None, None) == Names({}, {})
    assert names_of([FULL], ids.float(), lambda i: f"t{i}", None).tokens == {}


def test_the_samples_that_top_rows_point_to():
    data, rows = torch.arange(12.0).view(6, 2), [RowSet(torch.tensor([4, 1]))]
    kept = samples_of(rows, data, torch.arange(6) * 10)
    assert kept["index"].tolist() == [1, 4]
    assert kept["inputs"].tolist() == [[2, 3], [8, 9]]
    assert kept["labels"].tolist() == [10, 40]
    by_name = {"input_ids": data.long(), "labels": data.long(), "index": torch.zeros(6)}
    kept = samples_of(rows, by_name, None)
    # Labels of tokens are no label of a sample, and a column called index is not ours.
    assert kept.keys() == {"index", "input_ids"}
    assert kept["index"].tolist() == [1, 4]
    none = samples_of([RowSet(torch.zeros(0, dtype=torch.long))], torch.zeros(6, 2), None)
    assert none["index"].numel() == 0
    assert none["inputs"].shape == (0, 2)
