"""A real language model from text to report by the commands; skipped where SUBSCAPE_DATA is not set."""

import json
import warnings

import pytest

pytest.importorskip("transformers")


def call(line, capsys):
    from subscape.cli.main import main

    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        assert main(line.split()) == 0
    printed = capsys.readouterr()
    # Fused attention has no forward mode; nothing else is to be said.
    for warning in printed.err.strip().splitlines():
        assert "forward mode is not there for this model as loaded" in warning
    return json.loads(printed.out)


@pytest.mark.slow
def test_stories_are_decomposed_measured_edited_and_reported(data_dir, tmp_path, capsys):
    model, text = data_dir / "stories260k", data_dir / "tinystories" / "heldout_sample.txt"
    run = tmp_path / "run"
    short = tmp_path / "stories.txt"
    short.write_text(text.read_text(encoding="utf-8")[:60_000], encoding="utf-8")
    call(
        f"decompose {model} --parameters model.layers.2.self_attn --data {short} "
        f"--rows sampled-token --divergence kl --n-subnetworks 8 --steps 30 --batch-size 32 "
        f"--n-heldout-rows 64 --out {run} --json",
        capsys,
    )
    record = call(
        f"measure {run} --n-rows 512 --n-references 3 --n-top 6 --n-others 16 --n-deltas 2 --json",
        capsys,
    )
    assert record["n_rows"] == 512
    assert record["unit"] == "nats"
    assert len(record["subnetworks"]) == 8
    for entry in record["subnetworks"]:
        assert len({row["sample"] for row in entry["top_samples"]}) == 6
        assert all(0 <= row["position"] < 16 for row in entry["top_samples"])
        assert 0 < entry["impact_normalised"] < 1
        assert entry["top_outputs"]["up"]
        assert entry["top_outputs"]["down"]
    # The words of the stories, not their numbers.
    tokens = set(record["names"]["tokens"].values())
    assert {" the", " and", "."} <= tokens
    entry = call(f"top {run} --subnetwork 3 --json", capsys)
    assert entry == record["subnetworks"][3]
    found = call(f"sweep {run} --subnetwork 3 --deltas -1 1 --json", capsys)
    assert all(v > 0 for v in found["relevant"])
    report = tmp_path / "report.html"
    size = call(f"report {run} -o {report} --json", capsys)["bytes"]
    assert 20_000 < size == report.stat().st_size < 1_000_000
    arguments = f"edit {run} --set 3=0 --max-new-tokens 8 --json --prompt Once"
    said = call(arguments, capsys)
    assert said["before"] == said["after"]
    assert len(said["before"]) > 8
