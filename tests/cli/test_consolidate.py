import json
import shutil
from pathlib import Path

from subscape import Decomposition
from tests.cli.conftest import call


def contents(folder):
    return {p: p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def test_a_copy_of_a_subnetwork_goes_and_the_run_it_is_from_stays(folder, command):
    """A run whose fourth subnetwork is its third once more."""
    made = Decomposition.from_pretrained("bare/final")
    for weights in (made.dictionary.encoder_weights, made.dictionary.decoder_weights):
        weights.data[3] = weights.data[2]
    shutil.rmtree("bare/final")
    made.save_pretrained("bare/final")
    before = contents("bare")
    text = command("consolidate", "bare", "--out", "fewer", "--steps", "10", "--trust")
    assert contents("bare") == before
    found = Decomposition.from_pretrained("fewer/final")
    record = found.metrics["consolidation"]
    assert record["before"] == 4
    assert {2, 3} & {each["subnetwork"] for each in record["gone"]}
    assert len(found) == record["after"] == len(record["kept"]) < 4
    assert f"4 subnetworks → {len(found)}" in text
    assert 0 < found.metrics["fvu"] < 1.5
    assert found.settings == made.settings
    # It is a run like any other.
    assert (folder / "fewer" / "run.toml").read_text() == (folder / "bare" / "run.toml").read_text()
    again = command("consolidate", "fewer", "--out", "again", "--steps", "0", "--trust", "--json")
    assert json.loads(again)["out"] == "again"


def test_what_is_there_is_not_replaced_and_code_is_not_called(folder, refused, capsys):
    assert "out" in refused("consolidate", "bare", "--out", "net", "--trust")
    assert call("consolidate", "bare", "--out", "new") == 2
    assert "--trust" in capsys.readouterr().err
    assert not (folder / "new").exists()
