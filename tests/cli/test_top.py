import json
import shutil

import msgspec
import pytest

from subscape.measures import Measures
from subscape.measures.record import STANDINGS


def plain(entry) -> dict:
    return json.loads(json.dumps(msgspec.to_builtins(entry)))


def test_the_list_is_sorted_by_impact(command):
    entries = json.loads(command("top", "net", "--json"))
    measures = Measures.load("net/measures")
    assert sorted(e["index"] for e in entries) == [0, 1, 2, 3]
    # Of equal standing by impact; first-order-only and dead ones are last.
    assert [e["index"] for e in entries] == [e.index for e in measures.ranked()]
    alive = [e["impact"] for e in entries if measures[e["index"]].standing == STANDINGS[0]]
    assert alive
    assert alive == sorted(alive, reverse=True)
    assert entries[0] == plain(measures[entries[0]["index"]])
    lines, _, then = command("top", "net").partition("\n\nNext\n")
    assert then.splitlines()[0] == f"  subscape top net --subnetwork {entries[0]['index']}"
    lines = lines.splitlines()
    assert "impact (squared output per δ)" in lines[0]
    assert [int(line.split()[0]) for line in lines[1:]] == [e["index"] for e in entries]
    assert len(command("top", "net", "--n", "2").partition("\n\n")[0].splitlines()) == 3
    assert len(json.loads(command("top", "net", "--n", "2", "--json"))) == 2


def test_one_subnetwork(command):
    entry = json.loads(command("top", "net", "--subnetwork", "2", "--json"))
    assert entry == plain(Measures.load("net/measures")[2])
    text = command("top", "net", "--subnetwork", "2")
    assert text.startswith("subnetwork 2: active in")
    first = entry["top_samples"][0]
    assert f"sample {first['sample']}, label {first['sample'] % 3}" in text
    assert text.count("sample ") == 4
    assert command("top", "net", "--subnetwork", "2", "--n", "1").count("sample ") == 1


def test_tokens_stand_in_their_context(command):
    measures = Measures.load("stories/measures")
    entry = measures[1]
    text = command("top", "stories", "--subnetwork", "1")
    assert "nats per unit δ" in text
    row = entry.top_samples[0]
    assert f"({row.sample}, position {row.position})" in text
    place = measures.samples["index"].tolist().index(row.sample)
    words = [measures.names.tokens[int(i)] for i in measures.samples["input_ids"][place]]
    at = row.position
    assert f"{''.join(words[:at])}[{words[at]}]{''.join(words[at + 1 :])}" in text
    assert repr(measures.names.outputs[entry.top_outputs.up[0].output]) in text


@pytest.mark.parametrize("index", ["4", "-1"])
def test_an_index_out_of_range(refused, index: str):
    error = refused("top", "net", "--subnetwork", index)
    assert f"subnetwork: expected one of the 4 of this run, 0 to 3; got {index}" in error


def test_a_number_of_lines_that_is_none(refused):
    assert "n: expected at least 1; got -3" in refused("top", "net", "--n", "-3")


def test_a_run_without_measures(refused):
    assert "Measure first: subscape measure RUN" in refused("top", "bare")


def test_measures_of_another_run(refused):
    for command in (["top"], ["report"], ["sweep"]):
        error = refused(*command, "bare", "--measures", "stories/measures")
        assert "measures: expected those of this decomposition of 4 subnetworks" in error


def test_measures_of_an_earlier_decomposition_in_the_same_folder(folder, refused):
    from subscape.cli.main import main

    arguments = "--rank 1 --n-subnetworks 4 --batch-size 16 --n-heldout-rows 20 --json --overwrite"
    run = "decompose small_model_of_commands:model --data x.safetensors --out net --steps 21"
    assert main([*run.split(), *arguments.split()]) == 0
    for command in ("top", "report", "sweep"):
        assert "subscape measure RUN --overwrite" in refused(command, "net")


def test_measures_that_are_damaged(folder, refused):
    shutil.copytree("net/measures", "m")
    (folder / "m" / "measures.safetensors").write_bytes(b"x")
    assert "a whole safetensors file" in refused("top", "net", "--measures", "m")
    (folder / "m" / "measures.json").write_text("{")
    assert "a JSON file" in refused("top", "net", "--measures", "m")
    (folder / "m" / "measures.json").write_text('{"format": "subscape-measures/1"}')
    error = refused("top", "net", "--measures", "m")
    assert "got subscape-measures/1. Measure again: subscape measure RUN --overwrite." in error
