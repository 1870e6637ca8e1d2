import json
import math
from dataclasses import replace

import pytest
import torch

from subscape.measures import Impact, Measures, RowSet, Selectivity, Sweep, TopRows
from subscape.measures.card import Card
from subscape.measures.output_effects import TopOutputs
from subscape.measures.record import card_record, names_of, numbers, samples_of, token_ids


def outputs(index, value) -> TopOutputs:
    return TopOutputs(torch.tensor(index, dtype=torch.long), torch.tensor(value))


def found_of(position=None) -> Impact:
    place = None if position is None else torch.tensor(position)
    top = TopRows(
        RowSet(torch.tensor([4, 1]), place), torch.tensor([0.5, 0.25]), torch.tensor([-0.5, 0.25])
    )
    one = torch.tensor([2.0])
    return Impact(
        one, -one, one * math.nan, one / 4, one[None] / 4, (top,), n_rows=9, n_references=3
    )


def card_of(**changes) -> Card:
    relevant = torch.tensor([True, True, False])
    change = torch.tensor([[1.0, 3, 0], [0, 0, 0], [1, math.nan, 0]])
    sweep = Sweep((-0.5, 0.0, 0.5), change, change)
    made = Card(
        index=0,
        outputs=(outputs([3], [1.5]), outputs([], [])),
        by_row=((outputs([3], [1.0]), outputs([0], [-2.0])),) * 2,
        delta=0.5,
        found=sweep,
        control=sweep,
        relevant=relevant,
        selectivity=Selectivity(0.5, math.inf, 1.0),
        control_selectivity=Selectivity(0.5, 1.0, math.nan),
        validity_radius=math.nan,
    )
    return replace(made, **changes)


def test_a_card_becomes_what_json_can_hold():
    record = card_record(card_of(), found_of([2, 0]), 0)
    row = {"up": [[3, 1.0]], "down": [[0, -2.0]]}
    assert record == {
        "index": 0,
        "impact": 2.0,
        "impact_signed": -2.0,
        "impact_normalised": None,
        "active_rate": 0.5,
        "delta": 0.5,
        "validity_radius": None,
        "top_samples": [
            {"sample": 4, "position": 2, "impact": 0.5, "signed": -0.5, **row},
            {"sample": 1, "position": 0, "impact": 0.25, "signed": 0.25, **row},
        ],
        "top_outputs": {"up": [[3, 1.5]], "down": []},
        "sweep": {
            "delta": [-0.5, 0.0, 0.5],
            "relevant": [2.0, 0.0, None],
            "irrelevant": [0.0, 0.0, 0.0],
            "random": [2.0, 0.0, None],
        },
        "selectivity": {"delta": 0.5, "ratio": None, "auroc": 1.0, "auroc_random": None},
    }
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_what_is_not_there_is_left_out():
    made = card_of(
        outputs=None, by_row=(), found=None, control=None, selectivity=None, delta=math.nan
    )
    record = card_record(made, found_of(), 0)
    assert record["delta"] is None
    assert record["top_samples"][0] == {"sample": 4, "impact": 0.5, "signed": -0.5}
    assert not {"top_outputs", "sweep", "selectivity"} & record.keys()


def test_token_ids_are_whole_numbers_in_two_axes():
    ids = torch.zeros(3, 4, dtype=torch.long)
    assert token_ids(ids) is ids
    assert token_ids({"input_ids": ids, "attention_mask": ids + 1}) is ids
    assert token_ids({"pixel_values": ids.float()}) is None
    for other in (ids.float(), ids[0], ids[None]):
        assert token_ids(other) is None


def test_names_of_what_the_record_speaks_of():
    """Tokens of the windows of top samples, outputs of all rows and of the mean."""
    ids = torch.arange(12).view(6, 2)
    record = {"subnetworks": [card_record(card_of(), found_of([1, 0]), 0)]}
    names = names_of(record, {"input_ids": ids}, lambda i: f"t{i}", lambda i: f"o{i}")
    # Samples 4 and 1 hold the tokens 8, 9 and 2, 3.
    assert names["tokens"] == {"2": "t2", "3": "t3", "8": "t8", "9": "t9"}
    assert names["outputs"] == {"0": "o0", "3": "o3"}
    assert names_of(record, ids.float(), None, None) == {"outputs": {}, "tokens": {}}
    assert names_of(record, ids.float(), lambda i: f"t{i}", None)["tokens"] == {}


def test_the_samples_that_top_rows_point_to():
    data = torch.arange(12.0).view(6, 2)
    kept = samples_of(found_of(), data, torch.arange(6) * 10)
    assert kept["index"].tolist() == [1, 4]
    assert kept["inputs"].tolist() == [[2, 3], [8, 9]]
    assert kept["labels"].tolist() == [10, 40]
    by_name = {"input_ids": data.long(), "labels": data.long(), "index": torch.zeros(6)}
    kept = samples_of(found_of([0, 1]), by_name, None)
    # Labels of tokens are no label of a sample, and a column called index is not ours.
    assert kept.keys() == {"index", "input_ids"}
    assert kept["index"].tolist() == [1, 4]


def test_no_top_rows_at_all():
    none = TopRows(RowSet(torch.zeros(0, dtype=torch.long)), torch.zeros(0), torch.zeros(0))
    kept = samples_of(replace(found_of(), top=(none,)), torch.zeros(6, 2), None)
    assert kept["index"].numel() == 0
    assert kept["inputs"].shape == (0, 2)


def test_numbers():
    values = torch.tensor([[0.123456, math.nan], [math.inf, -1.0]])
    assert numbers(values) == [[0.1235, None], [None, -1.0]]


# In a folder


def measures_of(**changes) -> Measures:
    record = {
        "format": "subscape-measures/1",
        "n_rows": 1200,
        "n_references": 3,
        "quality": {
            "fvu": 0.25,
            "l0": 1.5,
            "baselines": [{"name": "2 principal directions", "l0": 2, "fvu": 0.5}],
        },
        "subnetworks": [
            {"selectivity": {"auroc": 0.9, "auroc_random": 0.5}},
            {"selectivity": {"auroc": 0.7, "auroc_random": 0.4}},
            {"selectivity": {"auroc": None, "auroc_random": 0.1}},
            {},
        ],
    }
    return Measures(record | changes, {"index": torch.tensor([2, 3])})


def test_measures_print_their_means():
    assert str(measures_of()).splitlines() == [
        "4 subnetworks over 1,200 rows, 3 references each",
        "FVU 0.250 at L0 1.50",
        "2 principal directions: FVU 0.500 at L0 2.00",
        "selectivity AUROC 0.80, of random directions 0.45 (means over 2 subnetworks)",
    ]
    assert "AUROC" not in str(measures_of(subnetworks=[{}]))


def test_saved_and_loaded(tmp_path):
    made = measures_of()
    made.save(tmp_path / "m")
    loaded = Measures.load(tmp_path / "m")
    assert loaded.record == made.record
    assert torch.equal(loaded.samples["index"], made.samples["index"])
    assert {p.name for p in (tmp_path / "m").iterdir()} == {"measures.json", "samples.safetensors"}


def test_nothing_or_something_else_in_the_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="Measure first: subscape measure RUN"):
        Measures.load(tmp_path)
    (tmp_path / "measures.json").write_text("[1]")
    with pytest.raises(ValueError, match="format subscape-measures/1; got something else"):
        Measures.load(tmp_path)
