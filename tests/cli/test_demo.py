"""The demonstration replaces an earlier one when it is done, and nothing else."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from subscape.cli.main import main
from subscape.demo import run_toy
from subscape.measures.measure import measure


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(autouse=True)
def few_steps(monkeypatch, trained_tms, unchecked):
    monkeypatch.setattr("subscape.demo.toy.STEPS", 20)
    monkeypatch.setattr("subscape.demo.toy.N_RESTARTS", 2)
    few = partial(measure, n_rows=40, n_references=2, n_top=4, n_others=8, n_deltas=2)
    monkeypatch.setattr("subscape.demo.toy.measure", few)
    monkeypatch.setattr("subscape.demo.toy.tms", lambda seed: trained_tms)
    monkeypatch.setattr("subscape.measures.quality.N_ROWS", 128)


def test_an_earlier_one_stays_until_the_new_one_is_done(tmp_path, monkeypatch):
    out = tmp_path / "toy"
    run_toy(out, progress=False)
    before = files(out)

    def failing(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("subscape.demo.toy.write_report", failing)
        with pytest.raises(KeyboardInterrupt):
            run_toy(out, progress=False)
    assert files(tmp_path) == {Path(out.name) / name: text for name, text in before.items()}
    monkeypatch.setattr("subscape.demo.toy.STEPS", 21)
    found = run_toy(out, progress=False)
    assert files(out).keys() == before.keys()
    assert files(out) != before
    assert found.out == out
    assert f"Report    {out / 'report.html'}" in found.text()


@pytest.mark.parametrize("kind", ["notes", "beside", "digits", "file"])
def test_what_is_no_demonstrations_is_refused_before_the_run(tmp_path, monkeypatch, capsys, kind):
    out = tmp_path / "demo"
    match kind:
        case "notes":
            (out / "toy").mkdir(parents=True)
            (out / "toy" / "report.html").write_text("mine")
        case "beside":
            run_toy(out / "toy", progress=False)
            (out / "toy" / "notes.txt").write_text("mine")
        case "digits":
            (out / "digits").mkdir(parents=True)
            (out / "digits" / "metrics.jsonl").write_text("mine")
        case _:
            out.write_text("mine")
    before = files(tmp_path)
    monkeypatch.setattr("subscape.cli.demo.run_toy", None)
    assert main(["demo", "--out", str(out), "--json"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert str(out) in line
    assert files(tmp_path) == before


def test_what_a_killed_one_left_goes(tmp_path, monkeypatch):
    out = tmp_path / "demo"
    left = out / ".toy.0123456789abcdef0123456789abcdef.tmp"
    left.mkdir(parents=True)
    monkeypatch.setattr(
        "subscape.cli.demo.run_digits", lambda *_, **__: SimpleNamespace(figures={})
    )
    assert main(["demo", "--out", str(out), "--json"]) == 0
    assert {path.name for path in out.iterdir()} == {"toy"}


def test_the_digits_can_be_explored_by_the_command_that_the_demo_names(tmp_path, monkeypatch):
    """Its run names functions that train the very same classifier again."""
    pytest.importorskip("sklearn")
    from subscape.cli.run_folder import open_run
    from subscape.demo import digits

    monkeypatch.setattr(digits, "EPOCHS", 1)
    few = replace(digits.TRAINING, steps=10, n_subnetworks=3, batch_size=32, n_heldout_rows=32)
    monkeypatch.setattr(digits, "TRAINING", few)
    small = partial(measure, n_rows=40, n_references=2, n_top=2, n_others=8, n_deltas=2)
    monkeypatch.setattr(digits, "measure", small)
    digits.run_digits(tmp_path / "digits", progress=False)
    seen = []
    monkeypatch.setattr("subscape.cli.explore.explore", lambda *a, **k: seen.append((a, k)))
    assert main(["explore", str(tmp_path / "digits"), "--trust"]) == 0
    decomposition, target, images, measures = seen[0][0]
    assert len(decomposition) == len(measures) == 3
    kept = measures.samples["index"]
    assert torch.equal(images[kept], measures.samples["inputs"])
    assert open_run(tmp_path / "digits").untrusted.keys() == {"model", "data"}
    digits.run_digits(tmp_path / "other", seed=1, progress=False)
    assert not (tmp_path / "other" / "run.toml").exists()  # the functions give those of seed 0
